package top

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"gatehouse/panics"
	"gatehouse/terminal"
)

const (
	enter = "\x1b[?1049h\x1b[?25l" // another screen, no cursor
	leave = "\x1b[?25h\x1b[?1049l"
)

// screen shows pages on a whole terminal until q or Ctrl-C is pressed or ctx ends, and leaves the terminal as it was.
func (w *watcher) screen(ctx context.Context, in, out *os.File) (err error) {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	defer func() {
		_, _ = out.WriteString(leave)
		_ = term.Restore(int(in.Fd()), before)
	}()
	if _, err := out.WriteString(enter); err != nil {
		return err
	}
	keys := make(chan byte, 16)
	go readKeys(in, keys)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	p, paused := terminal.To(out), false
	for {
		if err := w.draw(p, out, paused); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case <-tick.C:
			if !paused {
				w.look(ctx)
			}
		case key := <-keys:
			switch key {
			case 'q', 'Q', 3, 4: // Ctrl-C, Ctrl-D
				return nil
			case ' ':
				paused = !paused
			default:
				w.sortBy(key)
			}
		}
	}
}

// draw writes one page with the keys below it.
func (w *watcher) draw(p terminal.Printer, out *os.File, paused bool) error {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil || width < 1 || height < 2 {
		width, height = 80, 24
	}
	var keys []string
	for _, s := range Sorts {
		keys = append(keys, s.Key+" "+s.Name)
	}
	help := "q quit   space pause   sort by " + strings.Join(keys, "  ")
	if paused {
		help = "paused   " + help
	}
	_, err = out.Write(frame(w.page(p, width, height-1) + p.Paint(terminal.Faint, cut(help, width)) + "\n"))
	return err
}

// sortBy has the routes in the order of a key.
func (w *watcher) sortBy(key byte) {
	for _, s := range Sorts {
		if s.Key[0] == key|0x20 {
			w.sort = s.Name
			w.state.Routes, w.state.NoRoutes = w.routes()
		}
	}
}

// readKeys reads until the terminal closes. What nobody takes is dropped. It ends with the process: a read cannot be called off.
func readKeys(in *os.File, keys chan<- byte) {
	defer panics.Recover("reading the keyboard")
	one := make([]byte, 1)
	for {
		if n, err := in.Read(one); err != nil || n == 0 {
			select {
			case keys <- 'q':
			default:
			}
			return
		}
		select {
		case keys <- one[0]:
		default:
		}
	}
}
