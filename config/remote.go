package config

import (
	"fmt"
	"path/filepath"
)

// Service is a server that bundles come from or that status and decisions go to: whom to trust, and the credential that it wants.
type Service struct {
	Name       string            `yaml:"name" doc:"What service of a bundle, of status or of a sink calls it. Required."`
	CA         string            `yaml:"ca" doc:"Authorities that are trusted, PEM, instead of the system's."`
	Cert       string            `yaml:"cert" doc:"A client certificate, PEM (mTLS). Read anew for each connection."`
	Key        string            `yaml:"key" doc:"Its private key, PEM."`
	Headers    map[string]string `yaml:"headers" doc:"Sent with each request. Not for secrets."`
	PlainHTTP  bool              `yaml:"plain_http" doc:"true lets requests, credentials among them, go unencrypted to other machines. Default: false, and http is for loopback."`
	BearerFile string            `yaml:"bearer_file" doc:"A file with a token for the Authorization header. Read anew for each request. At most one of it, oauth2, aws, gcp and azure."`
	OAuth2     *OAuth2           `yaml:"oauth2" doc:"OAuth 2.0 client credentials."`
	AWS        *AWS              `yaml:"aws" doc:"Requests signed for AWS (Signature Version 4), as for a bucket in S3."`
	GCP        *GCP              `yaml:"gcp" doc:"Tokens of Google Cloud's metadata server; one of audience and scopes."`
	Azure      *Azure            `yaml:"azure" doc:"Tokens of an Azure managed identity."`
}

// OAuth2 gets the credential of a service by OAuth 2.0 client credentials.
type OAuth2 struct {
	TokenURL         string   `yaml:"token_url" doc:"The token endpoint, https. Required."`
	ClientID         string   `yaml:"client_id" doc:"The client's name. Required."`
	ClientSecretFile string   `yaml:"client_secret_file" doc:"A file with its secret. Required."`
	Scopes           []string `yaml:"scopes" doc:"What is asked for. Default: nothing."`
}

// AWS signs the requests to a service for AWS (Signature Version 4).
type AWS struct {
	From    string `yaml:"from" doc:"Where the credentials are: environment (AWS_ACCESS_KEY_ID and so on), metadata, web_identity or profile. Required."`
	Region  string `yaml:"region" doc:"The region. Required but for environment, which has it from AWS_REGION."`
	Service string `yaml:"service" doc:"The service that is asked. Default: s3."`
	Profile string `yaml:"profile" doc:"The profile's name. Default: default."`
}

// GCP gets the credential of a service from Google Cloud's metadata server.
type GCP struct {
	Audience string   `yaml:"audience" doc:"An identity token for this audience is used."`
	Scopes   []string `yaml:"scopes" doc:"An access token with these scopes is used."`
	Endpoint string   `yaml:"endpoint" doc:"The metadata server. Default: Google's."`
}

// Azure gets the credential of a service from an Azure managed identity.
type Azure struct {
	Resource string `yaml:"resource" doc:"What the token is for. Default: https://storage.azure.com/."`
	ClientID string `yaml:"client_id" doc:"A user-assigned identity. Default: the system-assigned one."`
	Endpoint string `yaml:"endpoint" doc:"The metadata server. Default: Azure's."`
}

// Status says where the state of the bundles is reported to.
type Status struct {
	URL      string            `yaml:"url" doc:"The endpoint: https, or http on loopback. OPA's is /status of a service. Empty: nothing is reported. Default: none."`
	Service  string            `yaml:"service" doc:"The service whose certificates and credential are used. Default: none."`
	Labels   map[string]string `yaml:"labels" doc:"Tell this process from others. Default: none."`
	Interval Duration          `yaml:"interval" doc:"How often to report while nothing changes. Default: 1m."`
}

// ValidateServices reports what is wrong with the names of services, and with keys that belong to remote bundles alone.
func (c *Config) ValidateServices(found *Problems) {
	known := map[string]bool{"": true}
	for i, s := range c.Services {
		at := fmt.Sprintf("services[%d].name", i)
		switch {
		case s.Name == "":
			found.Add(at, Wrong(at, "is missing"))
		case known[s.Name]:
			found.Add(at, Wrong(at, "two services are named %q", s.Name))
		}
		known[s.Name] = true
	}
	use := func(at, name string) {
		if !known[name] {
			found.Add(at, Wrong(at, "there is no service %q: name it under services", name))
		}
	}
	use("status.service", c.Status.Service)
	for i, s := range c.DecisionLog.Sinks {
		for kind, server := range s.Servers() {
			use(fmt.Sprintf("decision_log.sinks[%d].%s.service", i, kind), server.Service)
		}
	}
	c.Policy.validateBundles(found, "policy.bundles", c.Policy.Bundles, use)
	if x := c.Policy.Shadow; x != nil {
		switch {
		case len(x.Bundles) == 0:
			found.Add("policy.shadow", Wrong("policy.shadow.bundles", "give at least one"))
		case x.Sample < 0 || x.Sample > 1:
			found.Add("policy.shadow.sample", Wrong("policy.shadow.sample", "%v: must be between 0 and 1", x.Sample))
		}
		c.Policy.validateBundles(found, "policy.shadow.bundles", x.Bundles, use)
	}
}

// validateBundles checks the keys that do not go together.
func (p *Policy) validateBundles(found *Problems, list string, bundles []Bundle, use func(at, service string)) {
	fromControl := 0
	for i, b := range bundles {
		at := fmt.Sprintf("%s[%d]", list, i)
		use(at+".service", b.Service)
		elsewhere := b.URL + b.Image + b.Service + b.AfterMaxAge + b.CredentialFile
		if b.Control && (b.Path+b.URL+b.Image+b.Service+b.CredentialFile != "" || b.Interval != 0 || b.Signing != nil) {
			found.Add(at, Wrong(at, "with control: true leave out path, url, image, service, credential_file, interval and signing: control says all that"))
		}
		if b.Control {
			if fromControl++; fromControl > 1 {
				found.Add(at, Wrong(at, "control has one bundle for an edge, and another one here has control: true already"))
			}
		}
		if b.Path != "" && (elsewhere != "" || b.Interval != 0 || b.LongPoll != nil || b.MaxAge != 0) {
			found.Add(at, Wrong(at, "give one of path, url and image; service, interval and the like belong to the last two"))
		}
		if then := b.AfterMaxAge; then != "" && then != "serve" && then != "deny" {
			found.Add(at+".after_max_age", Wrong(at+".after_max_age", "%q is neither serve nor deny", then))
		}
	}
}

// ArchiveDir is where bundles are kept by their digest.
func (c *Config) ArchiveDir() string { return filepath.Join(c.StateDir, "bundles-by-digest") }
