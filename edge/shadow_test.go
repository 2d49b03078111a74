package edge

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestShadowPolicy: a policy decides beside the active one, follows its folder, and whatever is wrong with it is said and
// hurts nothing; a reload ends it.
func TestShadowPolicy(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := &place{t, t.TempDir()}
	p.write("policy/authz.rego", allowAll)
	p.write("next/authz.rego", denyAll)
	p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}], shadow: {bundles: [{path: next}], sample: 1}}\nstate_dir: state\n")
	n, end := p.start()
	defer end()
	p.eventuallyAnswers(n, "allow")
	decides := func(what string, is func(*ShadowStatus) bool) {
		t.Helper()
		p.eventually(what, func() error {
			if answer(n) != "allow" {
				return errors.New("it is not allowed")
			}
			if s := n.Shadow(); s == nil || s.Decisions == nil || !is(s) {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	decides("the shadow to deny", func(s *ShadowStatus) bool {
		return s.Decisions.Denies > 3 && s.Decisions.Denies == s.Decisions.Decided && len(s.Bundles) == 1
	})
	p.write("next/authz.rego", "package envoy.authz\n\nallow if x\n")
	decides("the error to be shown", func(s *ShadowStatus) bool {
		return strings.Contains(s.Bundles[0].Error, "authz.rego:3") && s.Decisions.On
	})
	if d := n.Degraded(); len(d.Bundles) > 0 {
		t.Errorf("degraded: %v", d.Bundles)
	}
	p.write("next/authz.rego", allowAll+"# the same\n")
	decides("the shadow to agree", func(s *ShadowStatus) bool { return s.Decisions.Decided > 3 && s.Decisions.Differences == 0 })
	p.write("gatehouse.yaml", "policy: {bundles: [{path: policy}]}\nstate_dir: state\n")
	cfg, found := p.read()
	if active, err := n.Reload(t.Context(), cfg, found); !active || err != nil || n.Shadow() != nil || n.Gate().ShadowStatus() != nil {
		t.Errorf("%v, %v, %+v", active, err, n.Shadow())
	}
}
