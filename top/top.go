// Package top shows what a running gatehouse decides, while it does: requests a second, denials, latencies, memo, lag and routes, out of its status,
// its metrics and the end of its decision log. It asks, shows and changes nothing. What it keeps is bounded, however much is decided. Behind
// `gatehouse top`.
package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"gatehouse/server"
	"gatehouse/terminal"
)

// Config says what is shown, where and how.
type Config struct {
	Status  func(context.Context) (server.Status, error) // of the process; required
	Metrics func(context.Context) ([]byte, error)        // its page of metrics; nil: there is none
	Log     string                                       // file of its decision log; "": there is none that can be read
	NoLog   string                                       // why there is none, for people

	Every  time.Duration // between two looks
	Window time.Duration // that rates and latencies are of
	Sort   string        // one of Sorts; "" is the first
	Once   bool          // look twice, print once, and end
	JSON   bool          // one object for each look

	In  *os.File  // the keyboard; nil: none
	Out io.Writer // a full-screen view where In and this are terminals, else lines
}

// Sorts are the orders of the routes: the key of each, and its name.
var Sorts = []struct{ Key, Name string }{{"r", "requests"}, {"d", "denied"}, {"l", "latency"}, {"n", "route"}}

// mostWindow bounds the window, and with it the looks that are kept.
const (
	leastEvery = 200 * time.Millisecond
	mostLooks  = 3600
)

// Validate checks the times and the order.
func (c *Config) Validate() error {
	switch {
	case c.Every < leastEvery:
		return fmt.Errorf("--every %s: it is at least %s", c.Every, leastEvery)
	case c.Window < c.Every:
		return fmt.Errorf("--window %s is shorter than --every %s", c.Window, c.Every)
	case c.Window/c.Every > mostLooks:
		return fmt.Errorf("--window %s has more than %d times --every %s", c.Window, mostLooks, c.Every)
	}
	for _, s := range Sorts {
		if c.Sort == "" || c.Sort == s.Name {
			return nil
		}
	}
	return fmt.Errorf("--sort %q: there are requests, denied, latency and route", c.Sort)
}

// State is what one look has found. Rates are per second, times in seconds.
type State struct {
	Time     time.Time          `json:"time"`
	Ready    bool               `json:"ready"`
	NotReady string             `json:"not_ready,omitempty"`
	Degraded []string           `json:"degraded,omitempty"`
	Revision string             `json:"revision,omitempty"`
	Started  time.Time          `json:"started"`
	Seconds  float64            `json:"window_seconds"` // that the rates are of
	Source   string             `json:"rates_from"`     // metrics, log, or "" where there are none yet
	Requests float64            `json:"requests_per_second"`
	Denied   float64            `json:"denied_per_second"`
	Reasons  map[string]float64 `json:"denied_by_reason,omitempty"`
	P50      float64            `json:"p50_seconds"`
	P99      float64            `json:"p99_seconds"`
	Memo     Memo               `json:"memo"`
	Log      Log                `json:"decision_log"`
	// Directory is how long ago control confirmed the directory; -1 where it comes from elsewhere.
	Directory float64 `json:"directory_lag_seconds"`
	Routes    []Route `json:"routes"`
	NoRoutes  string  `json:"no_routes,omitempty"` // why there are none
	Error     string  `json:"error,omitempty"`     // why this look found nothing; the rest is the one before
}

// Memo is what becomes of lookups of remembered decisions.
type Memo struct {
	On      bool    `json:"on"`
	Hits    float64 `json:"hit_ratio"` // within the window
	Entries int64   `json:"entries"`
}

// Log is how far the decision log is behind.
type Log struct {
	Queued  int64   `json:"queued"`
	Seconds float64 `json:"oldest_seconds"` // the age of what is not written yet
	Dropped uint64  `json:"dropped"`
	Skipped int64   `json:"skipped_bytes,omitempty"` // of its file, which grew faster than it was read
	Error   string  `json:"error,omitempty"`
}

// Route is what was decided about one route within the window.
type Route struct {
	Route    string  `json:"route"`
	Requests float64 `json:"requests_per_second"`
	Denied   float64 `json:"denied_per_second"`
	P50      float64 `json:"p50_seconds"`
	P99      float64 `json:"p99_seconds"`
}

// Run looks until ctx ends, q is pressed, or once.
func Run(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	w := newWatcher(c)
	defer w.tail.close()
	w.look(ctx)
	if len(w.looks) == 0 {
		return errors.New(w.state.Error) // it never answered
	}
	if c.Once {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.Every):
		}
		w.look(ctx)
		if w.state.Error != "" {
			return errors.New(w.state.Error)
		}
		if c.JSON {
			return terminal.JSON(c.Out).Encode(w.state)
		}
		_, err := io.WriteString(c.Out, w.page(terminal.To(c.Out), 0, 0))
		return err
	}
	if !c.JSON && c.In != nil && terminal.Is(c.In) && terminal.Is(c.Out) {
		return w.screen(ctx, c.In, c.Out.(*os.File))
	}
	return w.lines(ctx)
}

// lines prints one line for each look.
func (w *watcher) lines(ctx context.Context) error {
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		w.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var err error
		if w.cfg.JSON {
			err = terminal.JSON(w.cfg.Out).Encode(w.state)
		} else {
			_, err = fmt.Fprintln(w.cfg.Out, w.line())
		}
		if err != nil {
			return err
		}
	}
}
