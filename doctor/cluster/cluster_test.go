package cluster_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/doctor/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kubeconfig is one for a server; more goes into its user.
func kubeconfig(t *testing.T, server, ca, user string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}, {name: other, context: {cluster: nowhere, user: u}}]
clusters: [{name: c, cluster: {server: %q, %s}}]
users: [{name: u, user: {%s}}]
`, server, ca, user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// server is an API server with one kind, in pages, and one that may not be read where forbidden says so.
func server(t *testing.T, forbidden string) (url, ca string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		all = append(all, r.Method+" "+r.URL.Path)
		mu.Unlock()
		switch {
		case r.Header.Get("Authorization") != "Bearer t":
			w.WriteHeader(http.StatusUnauthorized)
		case forbidden != "" && strings.HasSuffix(r.URL.Path, forbidden):
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/k8s/apis/security.istio.io/v1beta1/authorizationpolicies" && r.URL.Query().Get("continue") == "":
			fmt.Fprint(w, `{"metadata": {"continue": "2"}, "items": [{"metadata": {"name": "a", "managedFields": [1]}, "spec": {"action": "CUSTOM"}, "status": {}}]}`)
		case r.URL.Path == "/k8s/apis/security.istio.io/v1beta1/authorizationpolicies":
			fmt.Fprint(w, `{"metadata": {}, "items": [{"metadata": {"name": "b"}}]}`)
		case strings.HasSuffix(r.URL.Path, "/configmaps"):
			fmt.Fprint(w, `{"items": [{"metadata": {"name": "istio"}, "data": {"mesh": "a: 1"}}, {"metadata": {"name": "other"}, "data": {"mesh": "secret"}}]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	pem := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return s.URL + "/k8s", "certificate-authority-data: " + base64.StdEncoding.EncodeToString(pem), func() []string { mu.Lock(); defer mu.Unlock(); return all }
}

func TestObjects(t *testing.T) {
	url, ca, asked := server(t, "")
	c, err := cluster.Read(kubeconfig(t, url, ca, "token: t"), "")
	if err != nil {
		t.Fatal(err)
	}
	texts, err := c.Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) != 2 || texts[0].Name != "here: authorizationpolicies" {
		t.Fatalf("%v", texts)
	}
	for _, want := range []string{`"kind": "AuthorizationPolicy"`, `"apiVersion": "security.istio.io/v1beta1"`, `"name": "a"`, `"name": "b"`} {
		if !strings.Contains(string(texts[0].Text), want) {
			t.Errorf("no %s in %s", want, texts[0].Text)
		}
	}
	if all := string(texts[0].Text) + string(texts[1].Text); strings.Contains(all, "managedFields") || strings.Contains(all, "status") || strings.Contains(all, "secret") {
		t.Errorf("more than is looked at: %s", all)
	}
	for _, request := range asked() {
		if !strings.HasPrefix(request, "GET ") || strings.Contains(request, "/secrets") {
			t.Errorf("it asks %s", request)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "Bearer") || strings.Contains(text, `"t"`) {
		t.Errorf("a configuration prints its token: %s", text)
	}
}

func TestRefused(t *testing.T) {
	url, ca, _ := server(t, "httproutes")
	unknown, _, _ := server(t, "")
	for _, test := range []struct{ server, ca, user, context, want string }{
		{url, ca, "token: t", "", "reading httproutes: "},
		{url, ca, "token: other", "", "401"},
		{unknown, "tls-server-name: x", "token: t", "", "certificate"},
		{url, ca, "token: t", "nothing", `context "nothing": it is not in the file, which has: here, other`},
		{url, ca, "token: t", "other", `cluster "nowhere": it is not in the file`},
		{url, "insecure-skip-tls-verify: true", "token: t", "", "insecure-skip-tls-verify"},
		{url, ca, "exec: {command: aws}", "", "no program is run"},
		{url, "certificate-authority-data: AAAA", "token: t", "", "there is no certificate in it"},
		{url, "certificate-authority: nowhere.pem", "token: t", "", "nowhere.pem"},
		{url, ca, "tokenFile: nowhere", "", "tokenFile"},
		{"http://10.0.0.1", ca, "token: t", "", "is not https"},
		{"nonsense", ca, "token: t", "", "is no URL"},
	} {
		c, err := cluster.Read(kubeconfig(t, test.server, test.ca, test.user), test.context)
		if err == nil {
			_, err = c.Objects(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// FuzzRead holds that no text ends the reader.
func FuzzRead(f *testing.F) {
	f.Add([]byte("current-context: here\ncontexts: [{name: here, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://a'}}]\nusers: [{name: u, user: {token: t}}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "kubeconfig")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = cluster.Read(file, "")
	})
}
