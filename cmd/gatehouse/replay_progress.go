package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"gatehouse/replay"
)

// showProgress keeps a line on the terminal up to date until the func that it returns is called. Elsewhere it shows nothing.
func showProgress(w io.Writer, p *replay.Replay, file string) (done func()) {
	if !isTerminal(w) || os.Getenv("TERM") == "dumb" {
		return func() {}
	}
	total := sizeOf(file)
	began := time.Now()
	stop := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() { // goroutine: of a command that a panic may end
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
				events, bytes := p.Progress()
				fmt.Fprintf(w, "\r\x1b[K%s", progress(events, bytes, total, time.Since(began)))
			}
		}
	})
	return func() {
		close(stop)
		wait.Wait()
	}
}

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
	text := fmt.Sprintf("%s decisions, %s a second", thousands(events), thousands(int64(rate)))
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
