package envoy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse/envoy/sandbox"
)

// further are targets that HTTP/1 has no room for: in HTTP/2 a path is any string of bytes.
var further = []string{
	"", "/admin/secret HTTP/1.1", "/public HTTP/1.1\r\nHost: x\r\n\r\nGET /admin/secret", "/admin/secret\r\nx: y", "/admin/secret\n", "/admin/secret\r",
	"/admin/secret\x01", "/admin\x7f/secret", "/admin/secret\x0b", "/public\x00/../admin/secret", "/admin/secret?\r\n", "/admin/secret\u2028",
}

// sendHTTP2 asks for a path, sent as it is, in HTTP/2 with prior knowledge.
func sendHTTP2(t *testing.T, port int, path, token string) verdict {
	t.Helper()
	conn, err := net.Dial("tcp", at(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "orders.example.com"}, {":path", path}, {"authorization", "Bearer " + token}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = conn.Write([]byte(http2.ClientPreface))
	err = errors.Join(err, framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
	if err != nil {
		t.Fatal(err)
	}
	return readHTTP2(framer)
}

// readHTTP2 reads the answer on the one stream.
func readHTTP2(framer *http2.Framer) verdict {
	v := verdict{Who: "envoy", Header: http.Header{}}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return verdict{Who: "closed"}
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range f.Fields {
				v.Header.Add(h.Name, h.Value)
				if h.Name == ":status" {
					v.Status, _ = strconv.Atoi(h.Value)
				}
			}
		case *http2.DataFrame:
			v.Body += string(f.Data())
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return verdict{Who: "closed"}
		}
		if frame.Header().StreamID == 1 && frame.Header().Flags.Has(http2.FlagDataEndStream) {
			break
		}
	}
	switch {
	case v.Header.Get("X-App") != "" || v.Header.Get("X-Envoy-Upstream-Service-Time") != "":
		v.Who = "app"
	case v.Header.Get("X-Decision-Id") != "":
		v.Who = "gatehouse"
	}
	return v
}

// The same spellings, and some more, in HTTP/2.
func TestHostilePathsOverHTTP2(t *testing.T) {
	t.Parallel()
	apps := startBackends(t)
	var doors []door
	for _, manager := range []string{normalising, notNormalising} {
		for _, app := range apps {
			// Envoy takes a second over closing a connection that it gave up, which is a long time for a thousand of them.
			doors = append(doors, door{Port: freePort(t), App: app, Authz: []int{9191}, Manager: manager + ", delayed_close_timeout: 0.02s"})
		}
	}
	doors[0].Port = 8080
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "secret")})
	doors[0].Port = portOf(t, s.URL)
	token := s.Token("mallory")
	targets := append([]string{}, further...)
	for _, sp := range spellings {
		if sp.Method == "" && sp.Proto == "" && sp.Header == "" {
			targets = append(targets, sp.Target)
		}
	}
	who := map[string]int{}
	for i, d := range doors {
		for _, target := range targets {
			got := sendHTTP2(t, d.Port, target, token)
			who[got.Who]++
			if contains(got.Body, jewels) {
				t.Errorf("%s serves the protected resource for %q (manager: %s)", backends[i%len(apps)], target, d.Manager)
			}
		}
		if got := sendHTTP2(t, d.Port, "/healthz", token); got.Who != "app" || got.Status != 200 {
			t.Fatalf("door %d: %s: nothing is asked", i, got)
		}
	}
	t.Log(strings.TrimPrefix(fmt.Sprint(who), "map"))
	if who["gatehouse"] == 0 || who["app"] == 0 {
		t.Errorf("answered by %v", who)
	}
}
