package extauthz_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
)

// handlers are one handler for each proxy, around a gate whose policy allows nothing but /open.
func handlers(t testing.TB) map[extauthz.Proxy]*extauthz.HTTP {
	t.Helper()
	p := compile(t, `package envoy.authz
		allow := {"allowed": true, "headers": {"x-tenant": "blue"}} if input.parsed_path == ["open"]`)
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, settings(), p))
	out := map[extauthz.Proxy]*extauthz.HTTP{}
	for _, kind := range proxies {
		var err error
		if out[kind], err = extauthz.NewHTTP(g, extauthz.HTTPConfig{Proxy: kind}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// For any input the answer is a 200 for the allowed path, or a status that the proxy treats as a denial.
func FuzzHTTP(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", "/open", "accept: text/html", ""},
		{"POST", "/open?a=b", "content-type: application/json\ncontent-length: 2", "{}"},
		{"OPTIONS", "*", "", ""},
		{"CONNECT", "h:443", "x-http-method-override: GET", ""},
		{"GET", "http://h/open", "X_Auth_Subject: root\nx-original-uri: /open", ""},
		{"GET", "/open/../no%2f%00\xff", "cookie: a=b\ncookie: c=d\nx-forwarded-uri: /open", "\xff"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	all := handlers(f)
	f.Fuzz(func(t *testing.T, method, target, headers, body string) {
		for kind, h := range all {
			r := &http.Request{Method: method, RequestURI: target, URL: &url.URL{}, Host: "h", Header: http.Header{}, ContentLength: int64(len(body)),
				Body: io.NopCloser(strings.NewReader(body))}
			for line := range strings.SplitSeq(headers, "\n") {
				name, value, _ := strings.Cut(line, ":")
				r.Header.Add(name, strings.TrimSpace(value))
			}
			switch kind {
			case extauthz.ProxyNginx:
				overwrite(r.Header, "X-Original-", method, target)
			case extauthz.ProxyTraefik:
				overwrite(r.Header, "X-Forwarded-", method, target)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			path, _, _ := strings.Cut(target, "?")
			switch {
			case w.Code == 200 && (path == "/open" || strings.Contains(path, "%")): // a letter may be escaped
			case w.Code == 401, w.Code == 403, kind != extauthz.ProxyNginx && 400 <= w.Code && w.Code < 500:
			default:
				t.Errorf("%s: %d for %s %q", kind, w.Code, method, target)
			}
		}
	})
}

// overwrite sets the fields of a proxy as the proxy does.
func overwrite(h http.Header, prefix, method, target string) {
	for name, value := range map[string]string{"Method": method, "Uri": target, "Host": "h", "Proto": "http"} {
		h.Set(prefix+name, value)
	}
}

func BenchmarkHTTP(b *testing.B) {
	for kind, h := range handlers(b) {
		b.Run(string(kind), func(b *testing.B) {
			r := httptest.NewRequest("GET", "/open", nil)
			overwrite(r.Header, "X-Original-", "GET", "/open")
			overwrite(r.Header, "X-Forwarded-", "GET", "/open")
			for _, name := range []string{"Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Cookie", "Referer"} {
				r.Header.Set(name, "a value of usual length, more or less")
			}
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code != 200 {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
