package inject

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestRequests: what is no review of a pod's creation gets an HTTP error, which the API server takes as a refusal.
func TestRequests(t *testing.T) {
	i := start(t, newCluster(t), nil)
	good := `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u1", "operation": "CREATE", "resource": {"version": "v1", "resource": "pods"}, "object": {"spec": {"containers": [{"name": "x"}]}}}}`
	if code, body := i.post(pathInject, "application/json; charset=utf-8", []byte(good)); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	for name, tc := range map[string]struct {
		path, kind, body string
		code             int
	}{
		"another path":        {"/", "application/json", good, 404},
		"another type":        {pathInject, "text/plain", good, 415},
		"no JSON":             {pathInject, "application/json", "{", 400},
		"an older version":    {pathInject, "application/json", strings.Replace(good, "k8s.io/v1", "k8s.io/v1beta1", 1), 400},
		"no request":          {pathInject, "application/json", `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}`, 400},
		"no uid":              {pathInject, "application/json", strings.Replace(good, "u1", "", 1), 400},
		"an update":           {pathInject, "application/json", strings.Replace(good, "CREATE", "UPDATE", 1), 400},
		"another resource":    {pathInject, "application/json", strings.Replace(good, `"pods"`, `"deployments"`, 1), 400},
		"too large":           {pathInject, "application/json", good + strings.Repeat(" ", maxReview), 413},
		"a pod of odd shapes": {pathInject, "application/json", strings.Replace(good, `{"spec"`, `{"metadata": [], "spec"`, 1), 200},
	} {
		code, body := i.post(tc.path, tc.kind, []byte(tc.body))
		if code != tc.code || code == 200 && !bytes.Contains(body, []byte(`"allowed":false`)) {
			t.Errorf("%s: %d %s, want %d", name, code, body, tc.code)
		}
	}
	for _, want := range []string{`gatehouse_inject_pods_total{reason="bad_request",result="error"} 8`, `gatehouse_inject_pods_total{reason="",result="injected"} 1`,
		`gatehouse_inject_certificate_expires_timestamp_seconds{certificate="serving"}`, "gatehouse_inject_ready 1"} {
		if text := i.get("/metrics"); !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// TestAlerts: what the alerts and the dashboard read of the injector is in its metrics, and the results that they name are ones that it counts.
func TestAlerts(t *testing.T) {
	i := start(t, newCluster(t), nil)
	i.post(pathInject, "application/json", []byte("{"))
	metrics := i.get("/metrics")
	var rules []byte
	for _, file := range []string{"grafana/gatehouse.json", "prometheus/rules.yaml"} {
		var err error
		if rules, err = os.ReadFile("../../packaging/" + file); err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\bgatehouse_inject_[a-z_]+\b`).FindAllString(string(rules), -1)
		if len(names) < 4 {
			t.Fatalf("%s reads %v", file, names)
		}
		for _, name := range names {
			if !strings.Contains(metrics, "# TYPE "+strings.TrimSuffix(name, "_bucket")+" ") {
				t.Errorf("%s reads %s, which is not in\n%s", file, name, metrics)
			}
		}
	}
	if want := fmt.Sprintf(`gatehouse_inject_pods_total{result=~"%s|%s"}`, refused, failed); !strings.Contains(string(rules), want) {
		t.Errorf("no %s in the alerts", want)
	}
}

// TestSlow: a body that trickles does not hold a place for long.
func TestSlow(t *testing.T) {
	i := start(t, newCluster(t), object{"max_requests": 1, "timeout": "300ms"})
	body, end := io.Pipe()
	defer end.Close()
	webhook, _ := i.Addresses()
	began := time.Now()
	r, err := i.client.Post("https://"+webhook.String()+pathInject, "application/json", body)
	if err == nil {
		defer r.Body.Close()
		if r.StatusCode == http.StatusOK {
			t.Error("an answer to half a question")
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Error("it took", took)
	}
	if got := i.review(pathInject, "shop", parsed(t, `spec: {containers: [{name: web}]}`)); !got.allowed {
		t.Errorf("%+v", got)
	}
}

// TestPanic: a panic is a refusal, and so is no verdict.
func TestPanic(t *testing.T) {
	for _, judge := range []func(*reviewRequest) verdict{func(*reviewRequest) verdict { panic("odd") }, func(*reviewRequest) verdict { return verdict{} }} {
		out, err := protected(judge, &reviewRequest{}).response("u1")
		if err != nil || !bytes.Contains(out, []byte(`"allowed":false`)) || !bytes.Contains(out, []byte(`"code":500`)) {
			t.Errorf("%v %s", err, out)
		}
	}
}

// TestBusy: a review that finds no free place waits for one for as long as its client does.
func TestBusy(t *testing.T) {
	i := start(t, newCluster(t), object{"max_requests": 1})
	i.slots <- struct{}{}
	i.client.Timeout = 100 * time.Millisecond
	webhook, _ := i.Addresses()
	if r, err := i.client.Post("https://"+webhook.String()+pathInject, "application/json", strings.NewReader("{}")); err == nil {
		r.Body.Close()
		t.Error("an answer")
	}
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(i.get("/metrics"), `reason="busy"`); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not counted")
		}
	}
	<-i.slots
	i.client.Timeout = 0
	if got := i.review(pathInject, "shop", parsed(t, `spec: {containers: [{name: web}]}`)); !got.allowed {
		t.Errorf("%+v", got)
	}
}

// TestOldTLS: no version below 1.2.
func TestOldTLS(t *testing.T) {
	i := start(t, newCluster(t), nil)
	webhook, _ := i.Addresses()
	for version, good := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", webhook.String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version})
		if err == nil {
			c.Close()
		}
		if (err == nil) != good {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

// TestReread: a change of the settings is in force without a restart, and one with a mistake is not.
func TestReread(t *testing.T) {
	c := newCluster(t)
	file := settingsFile(t, c, nil)
	i := startFile(t, c, file)
	image := func() any {
		return at(i.review(pathInject, "shop", parsed(t, `spec: {containers: [{name: web}]}`)).pod, "spec.initContainers.0.restartPolicy")
	}
	until := func(want any, metric string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(i.get("/metrics"), metric) || image() != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%v, want %v", image(), want)
			}
		}
	}
	until("Always", "gatehouse_inject_ready 1")
	rewrite(t, file, c, object{"sidecar": "neither"})
	until("Always", `gatehouse_inject_settings_reads_total{result="failed"} 1`)
	rewrite(t, file, c, object{"sidecar": plain, "listen": "127.0.0.1:1"})
	until(nil, `gatehouse_inject_settings_reads_total{result="failed"} 1`)
}
