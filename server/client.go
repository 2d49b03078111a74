package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// Control speaks to a running process: over its control socket, which takes commands, or the admin port, which does not.
type Control struct {
	Socket string // the control socket's path; "": there is none
	Admin  string // the admin port's address, as in the configuration, for Status where there is no socket
}

// RefusedError is what the process answered to a command that it did not carry out.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// Reload has the process read its configuration again, and waits for the outcome.
func (c Control) Reload(ctx context.Context) (Answer, error) {
	return c.send(ctx, "POST", "/reload", nil)
}

// Status is the document at /status.
func (c Control) Status(ctx context.Context) (s Status, err error) {
	address := c.Admin
	if c.Socket != "" {
		address = "unix:" + c.Socket
	}
	kind, at, err := network(address)
	if err != nil {
		return s, err
	}
	body, err := ask(ctx, kind, at, "GET", "/status", nil)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(body, &s); err != nil || s.Started.IsZero() {
		return s, fmt.Errorf("%s does not answer as gatehouse does: %s", address, firstOf(body))
	}
	return s, nil
}

// Metrics is the page at /metrics.
func (c Control) Metrics(ctx context.Context) ([]byte, error) {
	address := c.Admin
	if c.Socket != "" {
		address = "unix:" + c.Socket
	}
	kind, at, err := network(address)
	if err != nil {
		return nil, err
	}
	return ask(ctx, kind, at, "GET", "/metrics", nil)
}

// ReloadBySignal sends SIGHUP to the process and waits until its status says how the reload ended.
func (c Control) ReloadBySignal(ctx context.Context, pid int) error {
	before, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("sending SIGHUP to process %d: %w", pid, err)
	}
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		now, err := c.Status(ctx)
		switch {
		case err != nil:
			return err
		case !now.Started.Equal(before.Started):
			return errors.New("the process was started anew meanwhile")
		case now.Reloads > before.Reloads && now.ReloadError != "":
			return &RefusedError{now.ReloadError}
		case now.Reloads > before.Reloads:
			return nil
		}
	}
}

// Rollback makes an earlier policy active again: to is a revision or the beginning of a digest, "" what was active before.
func (c Control) Rollback(ctx context.Context, to string) (Answer, error) {
	return c.send(ctx, "POST", "/bundles/rollback", map[string]string{"to": to})
}

// Unpin ends a rollback.
func (c Control) Unpin(ctx context.Context) (Answer, error) {
	return c.send(ctx, "POST", "/bundles/unpin", nil)
}

// History lists the policies that can be rolled back to.
func (c Control) History(ctx context.Context) (Answer, error) {
	return c.send(ctx, "GET", "/bundles/history", nil)
}

// send gives a command to the running process and returns its answer.
func (c Control) send(ctx context.Context, method, path string, order any) (a Answer, err error) {
	text, err := json.Marshal(order)
	if err != nil {
		return a, err
	}
	body, err := ask(ctx, "unix", c.Socket, method, path, text)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, fmt.Errorf("%s does not answer as gatehouse does: %s", c.Socket, firstOf(body))
	}
	if a.Error != "" {
		return a, &RefusedError{a.Error}
	}
	return a, nil
}

// ask makes one request.
func ask(ctx context.Context, kind, at, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, kind, at)
	}}
	client := &http.Client{Transport: transport, Timeout: controlTimeout + 10*time.Second}
	resp, err := client.Do(req)
	if err != nil {
		needs := "as the same user, with listen.control set"
		if kind == "tcp" {
			needs = "with listen.admin set to " + at
		}
		return nil, fmt.Errorf("talking to the running process: %w\nis it running, %s?", errors.Unwrap(err), needs)
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

// maxAnswer bounds what a process answers, in bytes: a page of metrics is the longest.
const maxAnswer = 16 << 20

// firstOf is the beginning of an answer that is not understood.
func firstOf(body []byte) string { return strconv.QuoteToASCII(string(body[:min(len(body), 100)])) }
