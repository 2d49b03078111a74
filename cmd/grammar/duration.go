package grammar

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time, in which d stands for 24 hours.
type Duration time.Duration

func (d *Duration) String() string {
	const day = 24 * time.Hour
	if long := time.Duration(*d); long != 0 && long%day == 0 {
		return fmt.Sprintf("%dd", long/day)
	}
	text := time.Duration(*d).String()
	for _, zero := range []string{"0s", "0m"} { // 1h0m0s is 1h
		if before, ok := strings.CutSuffix(text, zero); ok && strings.HasSuffix(before, map[string]string{"0s": "m", "0m": "h"}[zero]) {
			text = before
		}
	}
	return text
}

// Type is the name of the value in help texts.
func (d *Duration) Type() string { return "duration" }

// Set is ParseDuration.
func (d *Duration) Set(text string) error {
	long, err := ParseDuration(text)
	*d = Duration(long)
	return err
}

// ParseDuration reads 90m, 36h or 7d.
func ParseDuration(text string) (time.Duration, error) {
	days, ok := strings.CutSuffix(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseInt(days, 10, 64)
	if err != nil || n > int64(1<<63-1)/int64(24*time.Hour) || n < 0 {
		return 0, fmt.Errorf("%q is no number of days", text)
	}
	return time.Duration(n) * 24 * time.Hour, nil
}
