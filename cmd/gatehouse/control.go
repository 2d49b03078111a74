package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"gatehouse/bundles"
	"gatehouse/config"
)

// controlTimeout is how long a command over the control socket may take. It waits for an activation that is under way.
const controlTimeout = time.Minute

// maxControl bounds a command and its answer, in bytes.
const maxControl = 1 << 20

// controlAnswer is what every command over the control socket gives back.
type controlAnswer struct {
	Error   string               `json:"error,omitempty"`
	Active  *bundles.Activation  `json:"active,omitempty"`
	Pinned  []string             `json:"pinned,omitempty"` // names of bundles
	History []bundles.Activation `json:"history,omitempty"`
}

// controlServer serves the commands that change something, over a socket that only its owner can open.
func (s *server) controlServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bundles/history", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, controlAnswer{History: s.current.Load().bundles.History()}, nil)
	})
	mux.HandleFunc("POST /bundles/rollback", func(w http.ResponseWriter, r *http.Request) {
		var order struct {
			To string `json:"to"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl)).Decode(&order); err != nil {
			reply(w, controlAnswer{}, fmt.Errorf("reading the command: %w", err))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
		defer cancel()
		active, err := s.current.Load().bundles.Rollback(ctx, order.To)
		s.logger.Info("control: rollback", zap.String("to", order.To), zap.Error(err))
		reply(w, controlAnswer{Active: &active, Pinned: s.pinned()}, err)
	})
	mux.HandleFunc("POST /bundles/unpin", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
		defer cancel()
		err := s.current.Load().bundles.Unpin(ctx)
		s.logger.Info("control: unpin", zap.Error(err))
		reply(w, controlAnswer{History: s.current.Load().bundles.History()}, err)
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: controlTimeout + 10*time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnState: stateOf}
}

// pinned names the bundles that are held at what was rolled back to.
func (s *server) pinned() (names []string) {
	for _, b := range s.current.Load().bundles.Status() {
		if b.Pinned {
			names = append(names, b.Name)
		}
	}
	return names
}

func reply(w http.ResponseWriter, a controlAnswer, err error) {
	w.Header().Set("content-type", "application/json")
	if err != nil {
		a = controlAnswer{Error: err.Error()}
		w.WriteHeader(http.StatusConflict)
	}
	_ = json.NewEncoder(w).Encode(a) // the client may be gone
}

// controlFlags say where the control socket of a running process is.
type controlFlags struct{ socket, config string }

func (f *controlFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.socket, "control", "", "control socket of the running process, unix:/path.sock (default: listen.control of the configuration)")
	c.Flags().StringVarP(&f.config, "config", "c", "", "configuration file (default: gatehouse.yaml, if it is there)")
}

// path is the socket's.
func (f *controlFlags) path() (string, error) {
	address := f.socket
	if address == "" {
		src, err := config.Source{File: f.config}.OrDefault()
		if err != nil {
			return "", usageError{errors.New("which process? give --control unix:/path.sock, or --config FILE with listen.control")}
		}
		cfg, doc, err := src.Read()
		if err != nil {
			return "", err
		}
		if address = cfg.Listen.Control; address == "" {
			return "", fmt.Errorf("%s: listen.control is not set, so the process takes no commands\nset it to unix:/path.sock and restart, or give --control", doc.File)
		}
	}
	path, ok := config.CutUnix(address)
	if !ok || path == "" {
		return "", usageError{fmt.Errorf("--control: %q is not unix:/path.sock", address)}
	}
	return path, nil
}

// send gives a command to the running process and returns its answer.
func (f *controlFlags) send(ctx context.Context, method, url string, order any) (a controlAnswer, err error) {
	path, err := f.path()
	if err != nil {
		return a, err
	}
	body, err := json.Marshal(order)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse"+url, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	client := &http.Client{Transport: transport, Timeout: controlTimeout + 10*time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return a, fmt.Errorf("talking to the running process: %w\nis it running, as the same user, with listen.control set? A socket that was removed while it runs is there again after a restart", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxControl)).Decode(&a); err != nil {
		return a, fmt.Errorf("%s does not answer as gatehouse does (%s): %w", path, resp.Status, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// bundleControlCommands are those of gatehouse bundle that speak to a running process.
func bundleControlCommands() []*cobra.Command {
	var f controlFlags
	var to string
	rollback := &cobra.Command{
		Use:   "rollback",
		Short: "Swap an earlier policy back in, at once",
		Long: `Makes an earlier policy of the running process again, with every check by the rules of now, and pins the bundles that changed by it:
what was rolled back does not come again by itself. The pin ends when its source offers another bundle, or with
gatehouse bundle unpin.`,
		Example: `  gatehouse bundle rollback
  gatehouse bundle rollback --to v41 --control unix:/run/gatehouse/control.sock`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := f.send(c.Context(), "POST", "/bundles/rollback", map[string]string{"to": to})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "active: %s\n", visible(a.Active.Revision))
			if len(a.Pinned) > 0 {
				fmt.Fprintf(c.OutOrStdout(), "pinned until another bundle arrives, or gatehouse bundle unpin: %s\n", visible(strings.Join(a.Pinned, ", ")))
			}
			return nil
		},
	}
	rollback.Flags().StringVar(&to, "to", "", "revision, or the first six digits or more of a digest (default: what was active before)")
	unpin := &cobra.Command{
		Use:   "unpin",
		Short: "End a rollback: the sources' own bundles become active again",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := f.send(c.Context(), "POST", "/bundles/unpin", nil)
			if err != nil {
				return err
			}
			for _, h := range a.History {
				if h.Active {
					fmt.Fprintf(c.OutOrStdout(), "active: %s\n", visible(h.Revision))
				}
			}
			return nil
		},
	}
	history := &cobra.Command{
		Use:   "history",
		Short: "List the policies of the running process that can be rolled back to",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := f.send(c.Context(), "GET", "/bundles/history", nil)
			if err != nil {
				return err
			}
			return printHistory(c.OutOrStdout(), a.History)
		},
	}
	list := []*cobra.Command{rollback, unpin, history}
	for _, c := range list {
		f.add(c)
	}
	return list
}

// printHistory shows one policy a line, the newest first, the active one with a star.
func printHistory(w io.Writer, list []bundles.Activation) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, " \tREVISION\tFIRST ACTIVE\tDIGESTS")
	for _, h := range list {
		mark := " "
		if h.Active {
			mark = "*"
		}
		var digests []string
		for _, b := range h.Bundles {
			digests = append(digests, b.Name+"="+b.Digest[:12])
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", mark, visible(h.Revision), h.Since.UTC().Format(time.RFC3339), visible(strings.Join(digests, " ")))
	}
	return t.Flush()
}
