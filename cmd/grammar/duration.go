package grammar

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
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
		long, err := time.ParseDuration(text)
		if err != nil {
			err = fmt.Errorf("%q is no length of time: write it with its unit, such as 90s, 12h or 7d", text)
		}
		return long, err
	}
	n, err := strconv.ParseInt(days, 10, 64)
	if err != nil || n > int64(1<<63-1)/int64(24*time.Hour) || n < 0 {
		return 0, fmt.Errorf("%q is no number of days", text)
	}
	return time.Duration(n) * 24 * time.Hour, nil
}

// Expiry is when something ends: a time from now, in which d stands for 24 hours, or a date with time and zone. The zero value is never.
type Expiry struct {
	life time.Duration
	at   time.Time
}

// ExpiresIn is a time from now.
func ExpiresIn(life time.Duration) Expiry { return Expiry{life: life} }

func (e *Expiry) String() string {
	switch {
	case !e.at.IsZero():
		return e.at.Format(time.RFC3339)
	case e.life == 0:
		return ""
	}
	return (*Duration)(&e.life).String()
}

// Type is the name of the value in help texts.
func (e *Expiry) Type() string { return "duration" }

// Set reads 90d, 12h or 2027-01-31T00:00:00Z.
func (e *Expiry) Set(text string) error {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		*e = Expiry{at: at}
		return nil
	}
	life, err := ParseDuration(text)
	if err != nil || life < time.Second {
		return fmt.Errorf("%q is neither a time from now, such as 90d or 12h, nor a date such as 2027-01-31T00:00:00Z", text)
	}
	*e = Expiry{life: life}
	return nil
}

// Lifetime is how long that is from now; 0 is for ever.
func (e *Expiry) Lifetime(now time.Time) (time.Duration, error) {
	if at, err := e.At(now); err != nil || at.IsZero() {
		return 0, err
	}
	if e.at.IsZero() {
		return e.life, nil
	}
	return e.at.Sub(now), nil
}

// At is that moment; zero is never.
func (e *Expiry) At(now time.Time) (time.Time, error) {
	switch {
	case e.at.IsZero() && e.life == 0:
		return time.Time{}, nil
	case e.at.IsZero():
		return now.Add(e.life), nil
	case !e.at.After(now):
		return time.Time{}, fmt.Errorf("--expires: %s is over", e.at.Format(time.RFC3339))
	}
	return e.at, nil
}

// Add adds --expires, and the name that it had here before; "" where it had none.
func (e *Expiry) Add(c *cobra.Command, what, before string) {
	c.Flags().Var(e, "expires", what+": a time from now such as 90d or 12h, or a date such as 2027-01-31T00:00:00Z")
	if before != "" {
		Old(c, before, fmt.Sprintf("--%s is now --expires", before), e.Set)
	}
}
