package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPolicyFrom: --policy says where the one bundle comes from, and nothing else about it.
func TestPolicyFrom(t *testing.T) {
	wait := Duration(5)
	signing := &Signing{Keys: []SigningKey{{ID: "k"}}}
	one := "policy: {bundles: [{name: orders, url: \"https://a.example.com/b.tar.gz\", service: s, long_poll: 5ns, signing: {keys: [{id: k}]}}]}\n"
	for name, tc := range map[string]struct {
		file, policy string
		want         Bundle
		err          string
	}{
		"an image":             {one, "oci://ghcr.io/acme/policy:v1", Bundle{Name: "orders", Image: "ghcr.io/acme/policy:v1", Service: "s", LongPoll: &wait, Signing: signing}, ""},
		"a server":             {one, "https://b.example.com/c", Bundle{Name: "orders", URL: "https://b.example.com/c", Service: "s", LongPoll: &wait, Signing: signing}, ""},
		"a folder":             {one, "/etc/gatehouse-policy", Bundle{Name: "orders", Path: "/etc/gatehouse-policy", Signing: signing}, ""},
		"without bundles":      {"{}\n", "oci://ghcr.io/acme/policy:v1", Bundle{Name: "policy", Image: "ghcr.io/acme/policy:v1"}, ""},
		"with several of them": {"policy: {bundles: [{path: a}, {path: b}]}\n", "x", Bundle{}, "policy.bundles has 2"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "gatehouse.yaml")
			if err := os.WriteFile(file, []byte(tc.file), 0o600); err != nil {
				t.Fatal(err)
			}
			c, _, err := Source{File: file, Policy: tc.policy}.Read()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]Bundle{tc.want}, c.Policy.Bundles); diff != "" {
				t.Error(diff)
			}
		})
	}
}
