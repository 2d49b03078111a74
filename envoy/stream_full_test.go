//go:build full

package envoy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const streamApp = `import asyncio

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route


async def healthz(request):
    return PlainTextResponse("ok")


async def stream(request):
    async def ticks():
        for i in range(17):
            yield f"data: {i}\n\n"
            await asyncio.sleep(1)

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def upload(request):
    return PlainTextResponse(str(len(await request.body())))


app = Starlette(routes=[Route("/healthz", healthz), Route("/stream", stream), Route("/upload", upload, methods=["POST"])])
`

// TestStreamsAreNotCut runs what init writes for an application with a stream of events that lasts longer than Envoy's own 15 seconds,
// and a slow upload beside it.
func TestStreamsAreNotCut(t *testing.T) {
	python := pythonOf(t, "fastapi-items")
	dir := workDir(t)
	write(t, filepath.Join(dir, "app.py"), streamApp)
	t.Log(gatehouse(t, dir, "init", "--fastapi", "app:app", "--python", python))
	for _, rule := range []string{"GET/stream.rego", "POST/upload.rego"} {
		amend(t, filepath.Join(dir, "policy", rule), "default allowed := false", "allowed := true")
	}
	s := startStack(t, dir, map[int]int{8000: serve(t, "uvicorn", dir, uvicorn(python, "app:app"))})
	url := "http://" + at(s.port)
	done := make(chan error, 1)
	go func() { done <- slowUpload(url + "/upload") }()
	resp, err := http.Get(url + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data: ") {
			events++
		}
	}
	if events != 17 {
		t.Errorf("%d events of 17 came through", events)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// slowUpload sends 18 parts, one a second.
func slowUpload(url string) error {
	in, out := io.Pipe()
	go func() {
		for range 18 {
			if _, err := out.Write(make([]byte, 8<<10)); err != nil {
				return
			}
			time.Sleep(time.Second) // this is what a slow client does
		}
		out.Close()
	}()
	resp, err := http.Post(url, "application/octet-stream", in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || string(text) != fmt.Sprint(18*8<<10) {
		return fmt.Errorf("the upload: %d %s, %v", resp.StatusCode, text, err)
	}
	return nil
}
