package terminal

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

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
