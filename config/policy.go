package config

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Policy says what decides: the bundles, which rule is asked, and within which bounds.
type Policy struct {
	Decision     string       `yaml:"decision" doc:"Path of the decision: envoy/authz/allow is data.envoy.authz.allow. Default: envoy/authz/allow."`
	Root         string       `yaml:"root" doc:"Instead of decision: one rule for each route. orders asks data.orders.GET.orders.__id.allowed for GET /orders/{id}. Needs routes.file. Default: none."`
	StrictRoutes bool         `yaml:"strict_routes" doc:"true stops the activation of a policy in which a route has no rule. Default: false, and it is only reported."`
	Timeout      Duration     `yaml:"timeout" doc:"How long one evaluation may take; then the request is denied (timeout). Default: 100ms."`
	AllowHeaders []string     `yaml:"allow_headers" doc:"Headers that a policy may set although they are refused by default: host, pseudo-headers, framing and hop-by-hop headers. Default: none."`
	Memo         Memo         `yaml:"memo" doc:"Decisions that are remembered: a request that the policy cannot tell from an earlier one gets the decision of that one, without being evaluated. It is only done where that is sure to be the same (gatehouse check says for which rule it is not, and why). auto or a mapping; off evaluates each request. Default: auto."`
	Capabilities Capabilities `yaml:"capabilities" doc:"Built-ins that reach out of the process and are off by default."`
	Protos       string       `yaml:"protos" doc:"A FileDescriptorSet (protoc --include_imports --descriptor_set_out): bodies of the gRPC methods in it are parsed for the policy. Watched. Default: none."`
	Bundles      []Bundle     `yaml:"bundles" doc:"Where policy and data come from. Required, unless --bundle is given."`
	Shadow       *Shadow      `yaml:"shadow" doc:"A policy that decides beside the active one on a sample of the requests, after they were answered. What it would decide otherwise is counted, logged and shown (gatehouse status); no client sees it. Default: none."`
	Tests        OwnTests     `yaml:"tests" doc:"The bundles' own tests, *_test.rego, which a bundle has to pass before it gets active."`
	Smoke        []string     `yaml:"smoke" doc:"Tables of requests, as gatehouse test reads them, that must hold under a policy before it gets active: that the administrators are not locked out, for one. Read at the start and at each reload. Default: none."`
	Keep         int          `yaml:"keep" doc:"How many earlier policies are kept to roll back to, at most 100: as they came, in state_dir or else in memory. Default: 5."`
	KeepSize     Size         `yaml:"keep_size" doc:"Most bytes of bundles (unpacked) that are kept so; the last one is kept whatever its size. Default: 16MiB."`
}

// Shadow is a policy that decides without being heard.
type Shadow struct {
	Bundles []Bundle `yaml:"bundles" doc:"Where the shadow policy comes from: all of its bundles, as in policy.bundles. Required."`
	Sample  float64  `yaml:"sample" doc:"Share of the requests that it decides about, 0 to 1. It takes at most a quarter of one processor; what comes beyond is dropped, and counted. Default: 0.1."`
}

// each calls do with every bundle, those of the shadow too.
func (p *Policy) each(do func(*Bundle)) {
	for i := range p.Bundles {
		do(&p.Bundles[i])
	}
	if p.Shadow != nil {
		for i := range p.Shadow.Bundles {
			do(&p.Shadow.Bundles[i])
		}
	}
}

// Unmatched is "deny" or "policy", or says so for redirects and for all else.
type Unmatched struct {
	Redirect string `yaml:"redirect" doc:"Requests that the application redirects to their path with or without a closing slash: deny, or policy to decide them as the route of that path, with input.route.redirect. Default: deny."`
	Other    string `yaml:"other" doc:"All others: deny or policy. Default: deny."`
}

// AppPolicy says which rule decides about one of several applications.
type AppPolicy struct {
	Decision     string `yaml:"decision" doc:"As policy.decision. Default: envoy/authz/allow."`
	Root         string `yaml:"root" doc:"As policy.root, instead of decision."`
	StrictRoutes bool   `yaml:"strict_routes" doc:"As policy.strict_routes."`
}

// Memo bounds the memory for remembered decisions.
type Memo struct {
	Off     bool `yaml:"-"`
	Size    Size `yaml:"size" doc:"Most memory for remembered decisions; the least recently used are removed first. 64KiB or more. Default: 16MiB."`
	Recheck int  `yaml:"recheck" doc:"One in so many requests that got a remembered decision is evaluated all the same, afterwards. If that gives another decision, which is a bug, it is an error in the log, gatehouse_memo_alarm is 1, and nothing is remembered any more for this policy. Default: 1024."`
}

// UnmarshalYAML implements yaml.Unmarshaler: off, auto, or the mapping.
func (c *Memo) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		type plain Memo
		return n.Decode((*plain)(c))
	}
	switch n.Value {
	case "auto":
	case "off":
		c.Off = true
	default:
		return &valueError{fmt.Sprintf("%q is neither auto, off nor a mapping", n.Value)}
	}
	return nil
}

// Validate checks the bounds of the memo.
func (c Memo) Validate() error {
	switch {
	case c.Size != 0 && c.Size < 64<<10:
		return Wrong("policy.memo.size", "%d bytes: must be 64KiB or more; policy.memo: off turns it off", c.Size)
	case c.Recheck < 0:
		return Wrong("policy.memo.recheck", "%d: must be above zero", c.Recheck)
	}
	return nil
}

// Capabilities turns built-in functions on that reach outside of the process.
type Capabilities struct {
	HTTPSend  HTTPSend `yaml:"http_send" doc:"http.send."`
	NetLookup []string `yaml:"net_lookup_ip_addr" doc:"Names that net.lookup_ip_addr may look up. Default: none, and it does not exist."`
	Runtime   bool     `yaml:"opa_runtime" doc:"opa.runtime; what it shows is always empty. Default: false."`
}

// HTTPSend says which hosts http.send may call.
type HTTPSend struct {
	Hosts   []string `yaml:"hosts" doc:"Hosts that http.send may call, without port. Default: none, and http.send does not exist."`
	Private bool     `yaml:"private" doc:"true lets those hosts have loopback, private and link-local addresses. Default: false."`
	Cache   Size     `yaml:"cache" doc:"Most memory for answers that are kept for other requests, where the policy asks for it with cache or force_cache; a new policy starts empty. Default: 10MiB."`
}

// OwnTests bounds the tests that a bundle brings along, or turns them off.
type OwnTests struct {
	Timeout Duration `yaml:"timeout" doc:"How long all of them together may take. Default: 10s."`
	Off     bool     `yaml:"off" doc:"true does not run them. Default: false."`
}

// Bundle is one bundle of policy: where it comes from, and when it is too old.
type Bundle struct {
	Name  string `yaml:"name" doc:"The bundle's name, in logs and metrics. Default: the last element of path, url or image, without .tar.gz or tag."`
	Path  string `yaml:"path" doc:"A directory, or a bundle's tarball (.tar.gz or .tar). Watched. One of path, url, image and control is required."`
	URL   string `yaml:"url" doc:"A bundle on an HTTP server: OPA's bundle service with its deltas and long polls, or any server of files with ETags. https, or http on loopback."`
	Image string `yaml:"image" doc:"A bundle in a registry: a reference by tag, which is followed, or by digest."`

	Control bool   `yaml:"control" doc:"true takes the bundle that is promoted at the control plane which the section control names, signed by control, within a second; a copy is kept in state_dir. Leave out path, url, image, service, interval and signing. Default: false."`
	Kept    string `yaml:"-"` // for tools: the state_dir of an edge, whose copy of control's bundle is read instead of asking control

	Service        string    `yaml:"service" doc:"The service whose certificates and credential are used for url; for image ca, cert, key and plain_http alone. Default: none."`
	CredentialFile string    `yaml:"credential_file" doc:"For image: a file like Docker's config.json, which may name credential helpers. Default: Docker's own."`
	Interval       Duration  `yaml:"interval" doc:"How often to ask url or image for something newer, a fifth more or less. Default: 1m."`
	LongPoll       *Duration `yaml:"long_poll" doc:"How long a bundle service may hold a question until there is something newer; 0s does not ask it to. Default: 30s."`
	MaxAge         Duration  `yaml:"max_age" doc:"How long a bundle stays in use that its source no longer confirms. 0s: no limit. Default: 0s."`
	AfterMaxAge    string    `yaml:"after_max_age" doc:"What happens then, until the source is back: serve goes on deciding and says so (log, status, gatehouse_bundle_expired); deny decides nothing (not_ready). Default: serve."`

	Required *bool    `yaml:"required" doc:"false: there is a policy without this bundle too, until it was there for the first time. Default: true."`
	Signing  *Signing `yaml:"signing" doc:"Whose signature the bundle must carry (.signatures.json, as opa sign makes it). With it nothing gets active that is unsigned, or that has a file more, less or other than was signed; and no delta. Default: signatures are not looked at."`
}

// Signing says which signatures a bundle must have.
type Signing struct {
	Keys       []SigningKey `yaml:"keys" doc:"The keys that are good. At least one."`
	Serial     bool         `yaml:"serial" doc:"true asks for a whole number metadata.serial in the manifest, and refuses a bundle with a lower one than was active already. Default: false."`
	AllowHS256 bool         `yaml:"allow_hs256" doc:"true accepts keys of the algorithm HS256, whose key can sign as well as verify. Default: false."`
}

// SigningKey is one key that bundles may be signed with.
type SigningKey struct {
	ID        string `yaml:"id" doc:"The key's name in the signature (kid, or OPA's keyid). Required."`
	File      string `yaml:"file" doc:"A public key or a certificate, PEM. Read anew for each bundle. Required."`
	Algorithm string `yaml:"algorithm" doc:"RS256, PS256, ES256, ES384 or EdDSA; also RS384, RS512, PS384, PS512, ES512, and HS256 where it is allowed. Required."`
	Scope     string `yaml:"scope" doc:"The signature's claim scope must be this. Default: it must have none."`
}

// insteadOfBundles leaves one bundle, by the name of the one that it takes the place of.
func (c *Config) insteadOfBundles(path string) {
	name := ""
	if len(c.Policy.Bundles) == 1 {
		name = c.Policy.Bundles[0].Name
	}
	c.Policy.Bundles = []Bundle{{Name: name, Path: path}}
}

// policyFrom changes where the one bundle comes from. Which signature it must carry stays: that is not for whoever starts the process to say.
func (c *Config) policyFrom(ref string) error {
	if n := len(c.Policy.Bundles); n > 1 {
		return fmt.Errorf("--policy %s: it says where the one bundle comes from, and policy.bundles has %d: leave --policy out, or name the sources there", ref, n)
	}
	b := Bundle{}
	if len(c.Policy.Bundles) == 1 {
		b = c.Policy.Bundles[0]
	}
	b.Path, b.URL, b.Image, b.Control = "", "", "", false
	image, isImage := strings.CutPrefix(ref, "oci://")
	switch {
	case isImage:
		b.Image = image
	case strings.HasPrefix(ref, "https://") || strings.HasPrefix(ref, "http://"):
		b.URL = ref
	default: // what belongs to a server is not a folder's
		b.Path, b.Service, b.CredentialFile, b.Interval, b.LongPoll, b.MaxAge, b.AfterMaxAge = ref, "", "", 0, nil, 0, ""
	}
	c.Policy.Bundles = []Bundle{b}
	return nil
}

// BundleName is the default name of the bundle at a path.
func BundleName(path string) string {
	name := filepath.Base(path)
	for _, ending := range []string{".tar.gz", ".tgz", ".tar"} {
		if short, ok := strings.CutSuffix(name, ending); ok && short != "" {
			return short
		}
	}
	return name
}

// FromControl reports whether a bundle comes from the control plane.
func (p Policy) FromControl() bool {
	return slices.ContainsFunc(p.Bundles, func(b Bundle) bool { return b.Control })
}

// remoteName is the default name of a bundle from elsewhere: the last part of its path.
func (b Bundle) remoteName() string {
	if b.Control {
		return "control"
	}
	if b.Image != "" {
		repository, _, _ := strings.Cut(path.Base(b.Image), "@")
		repository, _, _ = strings.Cut(repository, ":")
		return repository
	}
	target, _, _ := strings.Cut(b.URL, "?")
	return BundleName(strings.TrimSuffix(target, "/"))
}
