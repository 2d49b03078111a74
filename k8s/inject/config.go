// Package inject adds Gatehouse's sidecar to pods as they are created: a mutating admission webhook of Kubernetes, with certificates that it makes
// and renews by itself.
//
// It owns what is injected (Template: the part of the chart that a pod gets), what a pod may say of it in annotations, the webhook's server, and the
// certificates in one Secret, which all replicas share. The API server is asked for three things alone: its version, that Secret and one webhook
// configuration. Pods are JSON here and are changed by additions only, so that nothing of theirs is lost, whatever fields Kubernetes gets.
//
// It may import the foundations alone, and nothing of Kubernetes: docs/decisions/0018-injector.md says why.
package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/watch"
)

// maxConfig bounds the file of settings, in bytes: it is in a ConfigMap.
const maxConfig = 1 << 20

// Config is injector.yaml. The chart writes it.
type Config struct {
	Listen    string   `yaml:"listen"`    // of the webhook, TLS. Default: :8443
	Admin     string   `yaml:"admin"`     // /healthz, /readyz and /metrics, plain text. Default: :9192
	Namespace string   `yaml:"namespace"` // the injector's own, whose pods are left alone. Required
	Names     []string `yaml:"names"`     // that the API server calls us by: SERVICE.NAMESPACE.svc; addresses too. Required
	Secret    string   `yaml:"secret"`    // holds the certificates; must be there. Required
	Webhook   string   `yaml:"webhook"`   // the MutatingWebhookConfiguration that gets our authority; must be there. Required
	API       API      `yaml:"api"`

	Sidecar      string        `yaml:"sidecar"`      // native: initContainers with restartPolicy Always; plain: containers; auto: native from Kubernetes 1.29 on. Default: auto
	DrainDelay   time.Duration `yaml:"drain_delay"`  // how long a plain sidecar goes on answering after SIGTERM, and the injector itself. Default: 15s
	Exclude      []string      `yaml:"exclude"`      // namespaces whose pods are left alone, besides kube-system and our own
	Annotations  []string      `yaml:"annotations"`  // what pods may say, without inject.gatehouse.io/. Default: everything
	Certificates Lifetimes     `yaml:"certificates"` // of ours
	Timeout      time.Duration `yaml:"timeout"`      // for a request to arrive and to find a place; less than the webhook's. Default: 4s
	MaxRequests  int           `yaml:"max_requests"` // that are looked at at once. Default: 32
	Pod          Template      `yaml:"pod"`          // what is added. Required
}

// API is where the API server is. In a pod all of it is known.
type API struct {
	Server string `yaml:"server"` // https://HOST:PORT. Default: KUBERNETES_SERVICE_HOST and _PORT
	CA     string `yaml:"ca"`     // PEM. Default: the pod's
	Token  string `yaml:"token"`  // a file, read for each request. Default: the pod's
}

// Lifetimes are those of the certificates. Each is renewed when two thirds of its life are over.
type Lifetimes struct {
	Serving   time.Duration `yaml:"serving"`   // Default: 30 days
	Authority time.Duration `yaml:"authority"` // Default: a year
	Settle    time.Duration `yaml:"settle"`    // from when a new authority is in the webhook's configuration until it signs what we serve with. Default: 5m
	Poll      time.Duration `yaml:"poll"`      // how often the Secret and the configuration are looked at, a fifth more or less. Default: 15s
}

// The choices of Config.Sidecar.
const (
	auto   = "auto"
	native = "native"
	plain  = "plain"
)

// Read reads a file of settings. A key that is not known is an error.
func Read(file string) (*Config, error) {
	text, err := watch.ReadFile(file, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the injector's settings: %w", err)
	}
	c := &Config{}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	c.defaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

func (c *Config) defaults() {
	text := func(p *string, value string) {
		if *p == "" {
			*p = value
		}
	}
	length := func(p *time.Duration, value time.Duration) {
		if *p == 0 {
			*p = value
		}
	}
	text(&c.Listen, ":8443")
	text(&c.Admin, ":9192")
	text(&c.Sidecar, auto)
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	text(&c.API.CA, account+"ca.crt")
	text(&c.API.Token, account+"token")
	length(&c.DrainDelay, 15*time.Second)
	length(&c.Timeout, 4*time.Second)
	length(&c.Certificates.Serving, 30*24*time.Hour)
	length(&c.Certificates.Authority, 365*24*time.Hour)
	length(&c.Certificates.Settle, 5*time.Minute)
	length(&c.Certificates.Poll, 15*time.Second)
	if c.MaxRequests == 0 {
		c.MaxRequests = 32
	}
	if c.Annotations == nil {
		c.Annotations = wishes()
	}
}

// validate says everything that is wrong at once.
func (c *Config) validate() error {
	var errs []error
	for key, value := range map[string]string{"namespace": c.Namespace, "secret": c.Secret, "webhook": c.Webhook} {
		if !dnsName(value) {
			errs = append(errs, fmt.Errorf("%s: %q is no name of Kubernetes: name the one that the injector is to use", key, value))
		}
	}
	if len(c.Names) == 0 || slices.Contains(c.Names, "") {
		errs = append(errs, errors.New("names: name what the API server calls the injector by, as SERVICE.NAMESPACE.svc"))
	}
	if !slices.Contains([]string{auto, native, plain}, c.Sidecar) {
		errs = append(errs, fmt.Errorf("sidecar: %q is none of auto, native, plain", c.Sidecar))
	}
	l := c.Certificates
	for key, d := range map[string]time.Duration{"drain_delay": c.DrainDelay, "timeout": c.Timeout, "certificates.serving": l.Serving, "certificates.authority": l.Authority,
		"certificates.settle": l.Settle, "certificates.poll": l.Poll} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: %s is negative", key, d))
		}
	}
	// A new authority is made after two thirds of the old one's life, and has to be in use, on every replica, before that one ends.
	if l.Authority < 2*l.Serving {
		errs = append(errs, fmt.Errorf("certificates.authority: %s is less than twice certificates.serving, %s", l.Authority, l.Serving))
	}
	if l.Serving < 6*(l.Settle+l.Poll) {
		errs = append(errs, fmt.Errorf("certificates.serving: %s is less than six times settle and poll, %s: a certificate could end before its successor is in use", l.Serving, l.Settle+l.Poll))
	}
	if c.MaxRequests < 1 {
		errs = append(errs, fmt.Errorf("max_requests: %d is less than 1", c.MaxRequests))
	}
	for _, name := range c.Annotations {
		if !slices.Contains(wishes(), name) {
			errs = append(errs, fmt.Errorf("annotations: there is no inject.gatehouse.io/%s%s", name, meant(name, wishes())))
		}
	}
	if err := c.Pod.validate(); err != nil {
		errs = append(errs, fmt.Errorf("pod: %w", err))
	}
	slices.SortFunc(errs, func(a, b error) int { return bytes.Compare([]byte(a.Error()), []byte(b.Error())) })
	return errors.Join(errs...)
}
