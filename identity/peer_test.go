package identity_test

import (
	"context"
	"strings"
	"testing"

	"gatehouse/identity"

	"github.com/google/go-cmp/cmp"
)

const workload = "spiffe://example.org/ns/shop/sa/web"

func peerRequest(principal string, xfcc ...string) identity.Request {
	h := headers{}
	if len(xfcc) > 0 {
		h["x-forwarded-client-cert"] = xfcc
	}
	return identity.Request{Header: h.get, Principal: principal}
}

// TestPeerFromForwardedCertificate uses the last element of the header beside a principal that it fits, and nothing otherwise.
func TestPeerFromForwardedCertificate(t *testing.T) {
	alone := identity.Peer{SPIFFEID: workload, SANs: []string{workload}}
	full := identity.Peer{SPIFFEID: workload, Subject: "CN=web,O=Shop", SANs: []string{workload, "web.shop", "web.shop.svc"}}
	own := `By=spiffe://example.org/ns/gw/sa/envoy;Hash=00ff;Subject="CN=web,O=Shop";URI=` + workload + `;DNS=web.shop;DNS=web.shop.svc`
	for name, tt := range map[string]struct {
		principal string
		lines     []string
		want      identity.Peer
	}{
		"one element":              {workload, []string{own}, full},
		"no header":                {workload, nil, alone},
		"an empty header":          {workload, []string{""}, alone},
		"no principal":             {"", []string{own}, identity.Peer{}},
		"after a client's element": {workload, []string{`Subject="CN=admin";URI=spiffe://evil/admin,` + own}, full},
		"after three":              {workload, []string{`URI=a,URI=b;DNS=c , By=d,` + own}, full},
		"a space behind the comma": {workload, []string{`URI=a, ` + own}, full},
		"keys in capitals":         {workload, []string{strings.NewReplacer("URI=", "uri=", "DNS=", "Dns=", "Subject=", "SUBJECT=").Replace(own)}, full},
		"an unknown key":           {workload, []string{own + `;Later="x,y;z"`}, full},
		"a whole certificate":      {workload, []string{own + `;Cert="-----BEGIN%20CERTIFICATE-----%0AMIIB%3D%3D";Chain="%2D,;="`}, full},
		"quoted names":             {workload, []string{`URI="` + workload + `";DNS="a\"b\\c"`}, identity.Peer{SPIFFEID: workload, SANs: []string{workload, `a"b\c`}}},
		"two URIs":                 {workload, []string{`URI=` + workload + `;URI=https://web.shop`}, identity.Peer{SANs: []string{workload, "https://web.shop"}}},
		"the second URI":           {workload, []string{`URI=https://web.shop;URI=` + workload}, identity.Peer{SANs: []string{workload, "https://web.shop"}}},
		"a DNS name":               {"web.shop", []string{`Hash=00;URI=;DNS=web.shop;DNS=b.shop;Subject="CN=web"`}, identity.Peer{Subject: "CN=web", SANs: []string{"web.shop", "b.shop"}}},
		"a subject":                {"CN=web,O=Shop", []string{`Hash=00;Subject="CN=web,O=Shop";URI=`}, identity.Peer{Subject: "CN=web,O=Shop"}},
		"a subject with escapes":   {`CN=a\"b\,c\\`, []string{`Subject="CN=a\"b\,c\\"`}, identity.Peer{Subject: `CN=a\"b\,c\\`}},

		"only the last element counts":     {workload, []string{own + `,URI=spiffe://example.org/other;DNS=admin`}, alone},
		"another URI":                      {workload, []string{`URI=spiffe://example.org/other;DNS=admin`}, alone},
		"a longer URI":                     {workload, []string{`URI=` + workload + `2;DNS=admin`}, alone},
		"a URI of another case":            {workload, []string{`URI=` + strings.ToUpper(workload) + `;DNS=admin`}, alone},
		"another URI, the principal's DNS": {"web.shop", []string{`URI=spiffe://evil;DNS=web.shop`}, identity.Peer{SANs: []string{"web.shop"}}},
		"another DNS name":                 {"web.shop", []string{`DNS=admin.shop;Subject="web.shop"`}, identity.Peer{SANs: []string{"web.shop"}}},
		"another subject":                  {"CN=web", []string{`Subject="CN=admin"`}, identity.Peer{Subject: "CN=web"}},
		"no names at all":                  {workload, []string{`By=a;Hash=00`}, alone},
		"the header twice":                 {workload, []string{own, own}, alone},
		"a comma at the end":               {workload, []string{own + `,`}, alone},
		"a comma at the beginning":         {workload, []string{`,` + own}, alone},
		"two commas":                       {workload, []string{`URI=a,,` + own}, alone},
		"a semicolon at the end":           {workload, []string{own + `;`}, alone},
		"a key without a value":            {workload, []string{own + `;DNS`}, alone},
		"no key":                           {workload, []string{own + `;=x`}, alone},
		"a space in a key":                 {workload, []string{own + `; DNS=admin`}, alone},
		"a quote that is left open":        {workload, []string{own + `;Subject2="x`}, alone},
		"a client's open quote":            {workload, []string{`Subject="CN=x,` + own}, alone},
		"a client's open quote, escaped":   {workload, []string{`Subject="CN=x\,` + own}, alone},
		"a quote in an unquoted value":     {workload, []string{`X=a"b;` + own}, alone},
		"text behind a quote":              {workload, []string{`X="a"b;` + own}, alone},
		"the subject twice":                {workload, []string{own + `;subject="CN=admin"`}, alone},
		"the hash twice":                   {workload, []string{own + `;Hash=11`}, alone},
		"a control character":              {workload, []string{own + ";DNS=a\x00b"}, alone},
		"a tab in quotes":                  {workload, []string{own + ";X=\"a\tb\""}, alone},
		"a backslash without quotes":       {workload, []string{own + `;DNS=a\b`}, alone},
	} {
		for from, v := range map[string]*identity.Verifier{
			"tls xfcc": newVerifier(t, identity.Config{Peer: []string{"tls", "xfcc"}}),
			"xfcc":     newVerifier(t, identity.Config{Peer: []string{"xfcc"}}),
			"tls":      newVerifier(t, identity.Config{Peer: []string{"tls"}}),
			"default":  newVerifier(t, identity.Config{}),
			"nil":      nil,
		} {
			bare := (*identity.Verifier)(nil).Peer(peerRequest(tt.principal))
			want := tt.want
			used := len(tt.lines) == 1 && !cmp.Equal(tt.want, bare) || name == "a subject" || strings.HasPrefix(name, "a subject with")
			switch {
			case !strings.Contains(from, "xfcc"):
				want = bare
			case from == "xfcc" && !used:
				want = identity.Peer{}
			}
			if diff := cmp.Diff(want, v.Peer(peerRequest(tt.principal, tt.lines...))); diff != "" {
				t.Errorf("%s, from %s: %s", name, from, diff)
			}
		}
	}
}

func TestPeerIsNotTheEndUser(t *testing.T) {
	v := newVerifier(t, identity.Config{Peer: []string{"tls", "xfcc"}})
	id, err := v.Identify(context.Background(), nil, peerRequest(workload, "URI="+workload))
	if err != nil || id.Authenticated || id.Type != identity.TypeNone {
		t.Errorf("a peer became an end user: %v, %v", id, err)
	}
	if v.Configured() {
		t.Error("a peer alone counts as a credential")
	}
}

func TestPeerConfig(t *testing.T) {
	for want, from := range map[string][]string{
		`Peer: "mtls" is neither tls nor xfcc`: {"mtls"},
		`Peer: "xfcc" is listed twice`:         {"xfcc", "tls", "xfcc"},
	} {
		if _, err := identity.New(identity.Config{Peer: from}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// FuzzPeer puts arbitrary text in front of what Envoy appends, as a client can. Whatever it is, the peer is either what Envoy wrote
// or the principal alone; and arbitrary text alone can add names only beside the principal itself.
func FuzzPeer(f *testing.F) {
	own := `By=spiffe://example.org/gw;Hash=00;Subject="CN=web,O=Shop";URI=` + workload + `;DNS=web.shop`
	for _, seed := range []string{``, `URI=a`, `Subject="x`, `Subject="x\`, `X="a;b,c"`, `,`, `;`, `=`, `URI=` + workload + `;DNS=admin`, own, `A=\`} {
		f.Add(seed)
	}
	v := newVerifier(f, identity.Config{Peer: []string{"tls", "xfcc"}})
	alone := v.Peer(peerRequest(workload))
	full := v.Peer(peerRequest(workload, own))
	f.Fuzz(func(t *testing.T, text string) {
		if got := v.Peer(peerRequest(workload, text+","+own)); !cmp.Equal(got, full) && !cmp.Equal(got, alone) {
			t.Fatalf("%q forged %+v", text, got)
		}
		got := v.Peer(peerRequest(workload, text))
		if got.SPIFFEID != workload && len(got.SANs) < 2 || len(got.SANs) == 0 || got.SANs[0] != workload {
			t.Fatalf("%q changed the principal: %+v", text, got)
		}
		if !cmp.Equal(got, alone) && !strings.Contains(text, workload) {
			t.Fatalf("%q was believed without the principal: %+v", text, got)
		}
		if got := v.Peer(peerRequest("", text)); !cmp.Equal(got, identity.Peer{}) {
			t.Fatalf("%q made a peer: %+v", text, got)
		}
	})
}
