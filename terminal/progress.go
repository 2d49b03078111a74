package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Bar is how far something is that has taken so long: a bar, the percentage, a text, and the time that is left. A share that is not between 0
// and 1 is not known: the text alone.
func Bar(share float64, took time.Duration, text string) string {
	const width = 30
	if !(share >= 0 && share <= 1) {
		return text
	}
	full, left := int(share*width), ""
	if share > 0.02 {
		left = fmt.Sprintf(", %s left", time.Duration(float64(took)*(1-share)/share).Round(time.Second))
	}
	return fmt.Sprintf("[%s%s] %3.0f%%  %s%s", strings.Repeat("#", full), strings.Repeat(".", width-full), share*100, text, left)
}

// Progress says how far something is that takes longer than two seconds, until the function that it returns is called: on a terminal in one
// line that changes, elsewhere in a line every three seconds. tell is called on a goroutine of its own.
func Progress(w io.Writer, tell func(took time.Duration) string) (done func()) {
	line := Is(w) && os.Getenv("TERM") != "dumb"
	every, first := 3*time.Second, time.Duration(0)
	if line {
		every, first = 100*time.Millisecond, 2*time.Second
	}
	stop, began := make(chan struct{}), time.Now()
	var wait sync.WaitGroup
	wait.Go(func() { // goroutine: of a command that a panic may end
		tick := time.NewTicker(every)
		defer tick.Stop()
		some := false
		for {
			select {
			case <-stop:
				if some && line {
					fmt.Fprint(w, "\r\x1b[K")
				}
				return
			case <-tick.C:
			}
			took := time.Since(began)
			if took < first {
				continue
			}
			if some = true; line {
				fmt.Fprint(w, "\r\x1b[K"+Visible(tell(took)))
			} else {
				fmt.Fprintln(w, Visible(tell(took)))
			}
		}
	})
	return func() {
		close(stop)
		wait.Wait()
	}
}
