package grammar

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time, in which d stands for 24 hours.
type Duration time.Duration

func (d *Duration) String() string { return time.Duration(*d).String() }
func (d *Duration) Type() string   { return "duration" }

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
