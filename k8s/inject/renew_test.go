package inject

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
)

// replica is an injector that is not run: its rounds are the test's, at times of the test's.
func replica(t *testing.T, c *cluster, change object, now func() time.Time) *Injector {
	t.Helper()
	i, err := New(Options{File: settingsFile(t, c, change), Log: zap.NewNop(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.webhook.Close(); i.admin.Close() })
	return i
}

// verify is what the API server does with what a replica serves at that time.
func verify(trusted *x509.CertPool, i *Injector, now time.Time) error {
	c := i.certificates.Load()
	if c == nil {
		return nil // not ready
	}
	_, err := c.serving.Leaf.Verify(x509.VerifyOptions{Roots: trusted, DNSName: "gatehouse-injector.gatehouse.svc", CurrentTime: now})
	return err
}

// TestRenewal runs three replicas, whose clocks differ, through eight months. At no time does the API server, which may know the configuration of a
// while ago, distrust what any of them serves; and they do not write against each other.
func TestRenewal(t *testing.T) {
	c := newCluster(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(skew time.Duration) func() time.Time { return func() time.Time { return now.Add(skew) } }
	names := object{"sidecar": native, "certificates": object{"serving": "480h", "authority": "2880h", "settle": "1h", "poll": "10m"}}
	more := maps.Clone(names)
	more["names"] = []any{"gatehouse-injector.gatehouse.svc", "other.gatehouse.svc"} // another version of us
	all := []*Injector{replica(t, c, names, at(0)), replica(t, c, names, at(2*time.Minute)), replica(t, c, more, at(-2*time.Minute))}
	seen := map[string]bool{}
	r := rand.New(rand.NewPCG(1, 1))
	old := c.trusted(t)
	paused := map[int]bool{}
	for now.Before(time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)) {
		for _, k := range r.Perm(len(all)) {
			if paused[k] = !paused[k] && r.IntN(5) == 0; paused[k] {
				continue // for less than a third of a certificate's life
			}
			if err := all[k].round(t.Context()); err != nil {
				t.Fatal(now, err)
			}
			if len(seen) == 0 {
				old = c.trusted(t)
			}
			seen[signer(all[k])] = true
			for n, i := range all {
				for _, trusted := range []*x509.CertPool{old, c.trusted(t)} {
					if err := verify(trusted, i, now); err != nil {
						t.Fatalf("%s: replica %d: %v", now, n, err)
					}
				}
			}
		}
		old = c.trusted(t)
		now = now.Add(72 * time.Hour)
	}
	if len(seen) != 3 {
		t.Errorf("%d authorities, want 3", len(seen))
	}
	// A certificate is renewed after 13 days of 20, and an authority after 80 of 120.
	if n := c.writes[secretPath]; n > 30 {
		t.Errorf("the Secret was written %d times", n)
	}
	if n := c.writes[webhookPath]; n > 10 {
		t.Errorf("the configuration was written %d times", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.objects[secretPath]["kept"] != "as it is" || each(c.objects[webhookPath], "webhooks")[0]["kept"] != 1.0 {
		t.Error("fields that the injector does not know are lost")
	}
}

func signer(i *Injector) string { return i.certificates.Load().trusted[0].Subject.CommonName }

// TestFirst starts replicas at once: they agree on one authority.
func TestFirst(t *testing.T) {
	c := newCluster(t)
	all := make([]*Injector, 5)
	for k := range all {
		all[k] = replica(t, c, nil, time.Now)
	}
	var wait sync.WaitGroup
	for _, i := range all {
		wait.Go(func() {
			if err := i.round(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, i := range all {
		if err := i.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i.ready() != nil || signer(i) != signer(all[0]) {
			t.Error("replicas have different authorities", i.ready())
		}
	}
	if c.writes[secretPath] != 1 || c.writes[webhookPath] != 1 {
		t.Error("written more than once:", c.writes)
	}
}

// TestMended: what others take away, or damage, is put back as it was, so that the API server goes on trusting what is served.
func TestMended(t *testing.T) {
	for name, breaks := range map[string]func(c *cluster){
		"the Secret is emptied": func(c *cluster) { delete(c.objects[secretPath], "data") },
		"the Secret is damaged": func(c *cluster) {
			c.objects[secretPath]["data"].(object)["tls.key"] = base64.StdEncoding.EncodeToString([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
		},
		"another's key": func(c *cluster) { d := c.objects[secretPath]["data"].(object); d["tls.key"] = d["ca.key"] },
		"no base64":     func(c *cluster) { c.objects[secretPath]["data"].(object)["ca.crt"] = "%" },
		"the configuration is installed again": func(c *cluster) {
			for _, w := range each(c.objects[webhookPath], "webhooks") {
				delete(w["clientConfig"].(object), "caBundle")
			}
		},
		"one webhook has another bundle": func(c *cluster) {
			each(c.objects[webhookPath], "webhooks")[1]["clientConfig"].(object)["caBundle"] = "bm9uZQ=="
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			i, other := replica(t, c, nil, time.Now), replica(t, c, nil, time.Now)
			for _, i := range []*Injector{i, other} {
				if err := i.round(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			before := i.certificates.Load()
			c.mu.Lock()
			breaks(c)
			c.mu.Unlock()
			for _, i := range []*Injector{other, i} {
				if err := i.round(t.Context()); err != nil {
					t.Fatal(err)
				}
				if !i.certificates.Load().serving.Leaf.Equal(before.serving.Leaf) {
					t.Error("another certificate")
				}
				if err := verify(c.trusted(t), i, time.Now()); err != nil {
					t.Error(err)
				}
			}
			fresh := replica(t, c, nil, time.Now)
			if err := fresh.round(t.Context()); err != nil || !fresh.certificates.Load().serving.Leaf.Equal(before.serving.Leaf) {
				t.Error("a replica that starts now reads something else", err)
			}
		})
	}
}

// TestNotReady: each reason is said, and what is there stays in use while the API server is away.
func TestNotReady(t *testing.T) {
	c := newCluster(t)
	now := time.Now()
	i := replica(t, c, object{"sidecar": auto}, func() time.Time { return now })
	step := func(want string) {
		t.Helper()
		i.told(i.round(t.Context()))
		got := ""
		if err := i.ready(); err != nil {
			got = err.Error()
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("ready says %q, want %q", got, want)
		}
	}
	secret, hook := c.objects[secretPath], c.objects[webhookPath]
	write(t, c.token, "wrong")
	step("asking for the API server's version: 401 Unauthorized")
	write(t, c.token, "secret-token")
	delete(c.objects, webhookPath)
	step("reading the MutatingWebhookConfiguration gatehouse-injector (the chart makes it): 404")
	c.objects[webhookPath] = object{"metadata": object{"resourceVersion": "1"}}
	step("has no webhooks")
	c.objects[webhookPath] = hook
	delete(c.objects, secretPath)
	step("reading the Secret gatehouse-injector in namespace gatehouse (the chart makes it): 404")
	c.objects[secretPath] = secret
	c.version = "x"
	step("set sidecar to native or plain")
	c.version = "28+"
	step("")
	if i.settings.Load().native {
		t.Error("Kubernetes 1.28 has no native sidecars")
	}
	c.version = "29"
	step("")
	if !i.settings.Load().native {
		t.Error("Kubernetes 1.29 has native sidecars")
	}
	c.down = true
	step("")
	now = now.Add(31 * 24 * time.Hour)
	step("the certificate has ended: asking for the API server's version: 503 down")
	c.down = false
	step("")
}

func TestSettings(t *testing.T) {
	c := newCluster(t)
	for want, change := range map[string]object{
		"field podd not found":                                  {"podd": 1},
		`sidecar: "both" is none of`:                            {"sidecar": "both"},
		`namespace: "A" is no name`:                             {"namespace": "A"},
		"names: name what":                                      {"names": []any{}},
		"less than twice certificates.serving":                  {"certificates": object{"authority": "1h"}},
		"less than six times settle and poll":                   {"certificates": object{"serving": "1m"}},
		"is negative":                                           {"drain_delay": "-1s"},
		"max_requests: -1 is less than 1":                       {"max_requests": -1},
		"there is no inject.gatehouse.io/imag; image is meant?": {"annotations": []any{"imag"}},
		"the first one has to be called gatehouse":              {"pod": object{}},
		"there is no volume":                                    {"pod": object{"containers": []any{object{"name": "gatehouse", "image": "x", "restartPolicy": "Always", "volumeMounts": []any{object{"name": "v"}}}}}},
		"a native sidecar has Always":                           {"pod": object{"containers": []any{object{"name": "gatehouse", "image": "x"}}}},
		"image is missing":                                      {"pod": object{"containers": []any{object{"name": "gatehouse"}}}},
		"is for pods to say":                                    {"pod": object{"annotations": object{"inject.gatehouse.io/image": "x"}}},
		"mounts[0]":                                             {"pod": object{"mounts": []any{object{"container": "x"}}}},
		"volumes[0].name":                                       {"pod": object{"volumes": []any{object{"name": "a b"}}}},
		"listen: ":                                              {"listen": "nowhere:x"},
		"admin: ":                                               {"admin": "nowhere:x"},
	} {
		file := settingsFile(t, c, change)
		if _, err := New(Options{File: file, Log: zap.NewNop()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		} else if !strings.Contains(want, ": ") && !strings.Contains(err.Error(), file) {
			t.Errorf("%v does not name the file", err)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := New(Options{File: settingsFile(t, c, object{"api": object{}}), Log: zap.NewNop()}); err == nil || !strings.Contains(err.Error(), "runs in a pod") {
		t.Error(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "2001:db8::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if got, err := (API{}).server(); got != "https://[2001:db8::1]:443" {
		t.Error(got, err)
	}
}

// FuzzSecret: whatever is in the Secret, reading it ends, and what is read can be served and renewed.
func FuzzSecret(f *testing.F) {
	now := time.Now()
	l := Lifetimes{Serving: time.Hour, Authority: 3 * time.Hour, Settle: time.Minute, Poll: time.Second}
	c, err := newCertificates(now, l, []string{"a.b.svc"})
	if err != nil {
		f.Fatal(err)
	}
	data, err := c.secret()
	if err != nil {
		f.Fatal(err)
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		f.Add(key, data[key])
	}
	f.Add(keyNext, data[keyTrusted])
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		changed := maps.Clone(data)
		changed[key] = value
		read, err := readCertificates(changed)
		if err != nil {
			return
		}
		if _, _, err := read.advance(now.Add(100*time.Minute), l, []string{"a.b.svc"}, true); err != nil {
			t.Error(err)
		}
		if fmt.Sprint(len(read.bundle())) == "0" {
			t.Error("nothing is trusted")
		}
	})
}
