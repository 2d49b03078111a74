package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// controlPlane is a real one, and the environment that its commands want.
func controlPlane(t *testing.T) (url, ca string, as []string) {
	t.Helper()
	data, port := t.TempDir(), free(t)
	out := filepath.Join(t.TempDir(), "out")
	c := process(t, data, "/bin/sh", "-c", fmt.Sprintf("exec %s control serve --data %s --listen 127.0.0.1:%d > %s", gatehouse, data, port, out))
	said := regexp.MustCompile(`GATEHOUSE_CONTROL_TOKEN=(\S+)`)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, _ := os.ReadFile(out)
		if found := said.FindSubmatch(text); found != nil {
			url, ca = fmt.Sprintf("https://127.0.0.1:%d", port), filepath.Join(data, "ca.pem")
			return url, ca, append(os.Environ(), "GATEHOUSE_CONTROL_URL="+url, "GATEHOUSE_CONTROL_CA="+ca, "GATEHOUSE_CONTROL_TOKEN="+strings.Trim(string(found[1]), `"'`))
		}
		if time.Now().After(deadline) || c.ProcessState != nil {
			t.Fatalf("control does not start: %s", text)
		}
	}
}

// edgePod is one of the StatefulSet's: what its template says of it, with folders of this machine for its volumes.
type edgePod struct {
	name, folder, state, check, admin string
}

func (p *edgePod) start(t *testing.T, files map[string]string, enroll string) *exec.Cmd {
	t.Helper()
	http, admin := free(t), free(t)
	p.check, p.admin = fmt.Sprintf("http://127.0.0.1:%d", http), fmt.Sprintf("http://127.0.0.1:%d", admin)
	files = local(t, maps.Clone(files), map[string]any{"grpc": []string{fmt.Sprintf("127.0.0.1:%d", free(t))}, "admin": fmt.Sprintf("127.0.0.1:%d", admin), "tls": nil,
		"http": map[string]any{"address": fmt.Sprintf("127.0.0.1:%d", http), "proxy": "envoy"}, "drain_delay": "0s"})
	text := regexp.MustCompile(`state_dir: .*`).ReplaceAllString(files["gatehouse.yaml"], "state_dir: "+p.state)
	files["gatehouse.yaml"] = strings.ReplaceAll(text, "/etc/gatehouse-enroll/", enroll+"/")
	pod(t, p.folder, files)
	return process(t, p.folder, "/usr/bin/env", "GATEHOUSE_POD="+p.name, gatehouse, "serve", "--config", filepath.Join(p.folder, "gatehouse.yaml"), "--wait-for-policy")
}

// TestControlPlane: pods whose directory and policy come from a control plane let themselves in with the tokens of a Secret, each with its own; they decide by what is
// written there, keep their certificates on their volumes, and a pod whose volume is lost says that it needs a new token. Helm makes the same objects.
func TestControlPlane(t *testing.T) {
	url, ca, as := controlPlane(t)
	control := func(args ...string) string {
		c := exec.CommandContext(t.Context(), gatehouse, append([]string{"control"}, args...)...)
		c.Env = as
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("gatehouse control %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "policy"), 0o755); err != nil {
		t.Fatal(err)
	}
	certificate, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.pem"), string(certificate))
	write(t, filepath.Join(dir, "policy/policy.rego"), "package envoy.authz\n\nallow if gatehouse.check(\"group:open\", \"member\", \"user:anybody\")\n")
	write(t, filepath.Join(dir, "gatehouse.yaml"), fmt.Sprintf("state_dir: ./state\npolicy: {bundles: [{name: app, control: true}]}\ndirectory: {control: true}\ncontrol: {url: %q, ca: ca.pem, enroll_token_file: enroll.token}\n", url))
	revision := strings.Fields(control("push", filepath.Join(dir, "policy")))[0]
	control("promote", revision, "--message", "the first")
	args := []string{"k8s", "generate", "--for", "envoy", "--app", "orders", "--namespace", "gatehouse", "--app-namespace", "shop"}
	generated := objects(t, command(t, dir, args...))
	same(t, generated, render(t, command(t, dir, append(args, "-o", "values")...)))

	var set struct {
		Spec struct {
			Replicas int
			Template struct {
				Spec struct {
					Containers []struct {
						Env []struct {
							Name      string
							ValueFrom struct{ FieldRef struct{ FieldPath string } }
						}
						VolumeMounts []struct{ Name, MountPath string }
					}
					Volumes []struct {
						Name   string
						Secret struct {
							SecretName string
							Optional   bool
						}
					}
				}
			}
		}
	}
	for _, o := range only(generated, "StatefulSet") {
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &set); err != nil {
			t.Fatal(err)
		}
	}
	if set.Spec.Replicas != 2 {
		t.Fatalf("%+v", set)
	}
	if env := set.Spec.Template.Spec.Containers[0].Env; len(env) != 1 || env[0].Name != "GATEHOUSE_POD" || env[0].ValueFrom.FieldRef.FieldPath != "metadata.name" {
		t.Errorf("%+v", env)
	}
	found := false
	for _, v := range set.Spec.Template.Spec.Volumes {
		found = found || v.Name == "gatehouse-enroll" && v.Secret.SecretName == "gatehouse-enroll" && v.Secret.Optional
	}
	if !found {
		t.Errorf("the Secret with the tokens is not mounted: %+v", set.Spec.Template.Spec.Volumes)
	}

	secret := t.TempDir() // as the kubelet mounts it: a file for each key
	files := mounted(t, generated)
	var pods []*edgePod
	var processes []*exec.Cmd
	for i := range set.Spec.Replicas {
		p := &edgePod{name: fmt.Sprint("gatehouse-", i), folder: t.TempDir(), state: t.TempDir()}
		control("enroll", "--edge", p.name, "--out", filepath.Join(secret, p.name), "--valid", "24h")
		pods, processes = append(pods, p), append(processes, p.start(t, files, secret))
	}
	for _, p := range pods {
		until(t, p.admin+"/readyz", nil, http.StatusOK)
		until(t, p.check+"/orders", nil, http.StatusForbidden)
	}
	control("directory", "set", "user:anybody", "group:open", "group:open#member@user:anybody", "--wait", "20s")
	for _, p := range pods {
		until(t, p.check+"/orders", nil, http.StatusOK)
	}
	if status := control("status"); !strings.Contains(status, "gatehouse-0") || !strings.Contains(status, "gatehouse-1") {
		t.Errorf("control does not know the pods:\n%s", status)
	}

	// A pod that is made anew has its volume. The Secret is gone by then.
	restart := func(i int) *edgePod {
		_ = processes[i].Process.Kill()
		_ = processes[i].Wait()
		p := &edgePod{name: pods[i].name, folder: t.TempDir(), state: pods[i].state}
		return p
	}
	for _, p := range pods {
		if err := os.Rename(filepath.Join(secret, p.name), filepath.Join(dir, p.name)); err != nil {
			t.Fatal(err)
		}
	}
	again := restart(0)
	again.start(t, files, secret)
	until(t, again.check+"/orders", nil, http.StatusOK)
	control("directory", "delete", "group:open#member@user:anybody", "--wait", "20s")
	until(t, again.check+"/orders", nil, http.StatusForbidden)

	// As it would be with an emptyDir: the volume is gone, and the token was used.
	lost := restart(1)
	lost.state = t.TempDir()
	lost.start(t, files, dir)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, err := call(t.Context(), "GET", lost.admin+"/status", nil)
		if err == nil && strings.Contains(got.body, "was used already") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not say that its token was used: %v %s", err, got.body)
		}
	}
	if got, err := call(t.Context(), "GET", lost.admin+"/readyz", nil); err != nil || got.status == http.StatusOK {
		t.Errorf("it is ready: %v %+v", err, got)
	}
}
