package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"gatehouse/terminal"
)

// sizeOf is how many bytes of lines a log has; 0 where that cannot be told before it is read.
func sizeOf(file string) int64 {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	first := make([]byte, 1)
	if _, err := f.Read(first); err != nil || first[0] != '{' && first[0] != '[' { // compressed, or a segment
		return 0
	}
	return info.Size()
}

// progress is one line: a bar where the total is known, the number of decisions, and how fast.
func progress(events, bytes, total int64, took time.Duration) string {
	const width = 30
	rate := float64(events) / max(took.Seconds(), 0.001)
	text := fmt.Sprintf("%s decisions, %s a second", terminal.Thousands(events), terminal.Thousands(int64(rate)))
	if total <= 0 {
		return text
	}
	share := min(float64(bytes)/float64(total), 1)
	full := int(share * width)
	left := ""
	if share > 0.02 {
		left = fmt.Sprintf(", %s left", (time.Duration(float64(took) * (1 - share) / share)).Round(time.Second))
	}
	return fmt.Sprintf("[%s%s] %3.0f%%  %s%s", strings.Repeat("#", full), strings.Repeat(".", width-full), share*100, text, left)
}
