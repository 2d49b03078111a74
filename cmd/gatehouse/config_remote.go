package main

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"strings"
	"time"

	"gatehouse/bundles"
	"gatehouse/upstream"
)

type serviceConfig struct {
	Name       string            `yaml:"name" doc:"What service of a bundle, of status or of a sink calls it. Required."`
	CA         string            `yaml:"ca" doc:"Authorities that are trusted, PEM, instead of the system's."`
	Cert       string            `yaml:"cert" doc:"A client certificate, PEM (mTLS). Read anew for each connection."`
	Key        string            `yaml:"key" doc:"Its private key, PEM."`
	Headers    map[string]string `yaml:"headers" doc:"Sent with each request. Not for secrets."`
	PlainHTTP  bool              `yaml:"plain_http" doc:"true lets requests, credentials among them, go unencrypted to other machines. Default: false, and http is for loopback."`
	BearerFile string            `yaml:"bearer_file" doc:"A file with a token for the Authorization header. Read anew for each request. At most one of it, oauth2, aws, gcp and azure."`
	OAuth2     *oauth2Config     `yaml:"oauth2" doc:"OAuth 2.0 client credentials."`
	AWS        *awsConfig        `yaml:"aws" doc:"Requests signed for AWS (Signature Version 4), as for a bucket in S3."`
	GCP        *gcpConfig        `yaml:"gcp" doc:"Tokens of Google Cloud's metadata server; one of audience and scopes."`
	Azure      *azureConfig      `yaml:"azure" doc:"Tokens of an Azure managed identity."`
}

type oauth2Config struct {
	TokenURL         string   `yaml:"token_url" doc:"The token endpoint, https. Required."`
	ClientID         string   `yaml:"client_id" doc:"The client's name. Required."`
	ClientSecretFile string   `yaml:"client_secret_file" doc:"A file with its secret. Required."`
	Scopes           []string `yaml:"scopes" doc:"What is asked for. Default: nothing."`
}

type awsConfig struct {
	From    string `yaml:"from" doc:"Where the credentials are: environment (AWS_ACCESS_KEY_ID and so on), metadata, web_identity or profile. Required."`
	Region  string `yaml:"region" doc:"The region. Required but for environment, which has it from AWS_REGION."`
	Service string `yaml:"service" doc:"The service that is asked. Default: s3."`
	Profile string `yaml:"profile" doc:"The profile's name. Default: default."`
}

type gcpConfig struct {
	Audience string   `yaml:"audience" doc:"An identity token for this audience is used."`
	Scopes   []string `yaml:"scopes" doc:"An access token with these scopes is used."`
	Endpoint string   `yaml:"endpoint" doc:"The metadata server. Default: Google's."`
}

type azureConfig struct {
	Resource string `yaml:"resource" doc:"What the token is for. Default: https://storage.azure.com/."`
	ClientID string `yaml:"client_id" doc:"A user-assigned identity. Default: the system-assigned one."`
	Endpoint string `yaml:"endpoint" doc:"The metadata server. Default: Azure's."`
}

type statusConfig struct {
	URL      string            `yaml:"url" doc:"The endpoint: https, or http on loopback. OPA's is /status of a service. Empty: nothing is reported. Default: none."`
	Service  string            `yaml:"service" doc:"The service whose certificates and credential are used. Default: none."`
	Labels   map[string]string `yaml:"labels" doc:"Tell this process from others. Default: none."`
	Interval duration          `yaml:"interval" doc:"How often to report while nothing changes. Default: 1m."`
}

// services are those of the configuration by their names. What is wrong with one is wrong wherever it is used.
func (c *config) services() map[string]upstream.Service {
	out := map[string]upstream.Service{}
	for _, s := range c.Services {
		service := upstream.Service{CA: s.CA, Cert: s.Cert, Key: s.Key, Headers: maps.Clone(s.Headers), PlainHTTP: s.PlainHTTP, BearerFile: s.BearerFile}
		if o := s.OAuth2; o != nil {
			service.OAuth2 = &upstream.OAuth2{TokenURL: o.TokenURL, ClientID: o.ClientID, SecretFile: o.ClientSecretFile, Scopes: o.Scopes}
		}
		if a := s.AWS; a != nil {
			service.AWS = &upstream.AWS{From: a.From, Region: a.Region, Service: a.Service, Profile: a.Profile}
		}
		if g := s.GCP; g != nil {
			service.GCP = &upstream.GCP{Audience: g.Audience, Scopes: g.Scopes, Endpoint: g.Endpoint}
		}
		if a := s.Azure; a != nil {
			service.Azure = &upstream.Azure{Resource: a.Resource, ClientID: a.ClientID, Endpoint: a.Endpoint}
		}
		out[s.Name] = service
	}
	return out
}

// validateRemote reports what is wrong with the names of services, and with keys that belong to remote bundles alone.
func (c *config) validateRemote(found *problems) {
	known := map[string]bool{"": true}
	for i, s := range c.Services {
		at := fmt.Sprintf("services[%d].name", i)
		switch {
		case s.Name == "":
			found.add(at, fmt.Errorf("%s: is missing", at))
		case known[s.Name]:
			found.add(at, fmt.Errorf("%s: two services are named %q", at, s.Name))
		}
		known[s.Name] = true
	}
	use := func(at, name string) {
		if !known[name] {
			found.add(at, fmt.Errorf("%s: there is no service %q: name it under services", at, name))
		}
	}
	use("status.service", c.Status.Service)
	for i, s := range c.DecisionLog.Sinks {
		for kind, server := range s.servers() {
			use(fmt.Sprintf("decision_log.sinks[%d].%s.service", i, kind), server.Service)
		}
	}
	for i, b := range c.Policy.Bundles {
		at := fmt.Sprintf("policy.bundles[%d]", i)
		use(at+".service", b.Service)
		elsewhere := b.URL + b.Image + b.Service + b.AfterMaxAge + b.CredentialFile
		if b.Path != "" && (elsewhere != "" || b.Interval != 0 || b.LongPoll != nil || b.MaxAge != 0) {
			found.add(at, fmt.Errorf("%s: give one of path, url and image; service, interval and the like belong to the last two", at))
		}
		if then := b.AfterMaxAge; then != "" && then != "serve" && then != "deny" {
			found.add(at+".after_max_age", fmt.Errorf("%s.after_max_age: %q is neither serve nor deny", at, then))
		}
	}
}

// remote is where the bundle comes from if not from a path, nil if from there.
func (b bundleConfig) remote(services map[string]upstream.Service) *bundles.Remote {
	if b.URL == "" && b.Image == "" {
		return nil
	}
	r := &bundles.Remote{URL: b.URL, Image: b.Image, Service: services[b.Service], CredentialFile: b.CredentialFile,
		Interval: time.Duration(b.Interval), MaxAge: time.Duration(b.MaxAge), Withdraw: b.AfterMaxAge == "deny"}
	if b.LongPoll != nil {
		if r.LongPoll = time.Duration(*b.LongPoll); r.LongPoll == 0 {
			r.LongPoll = -1
		}
	}
	return r
}

// remoteName is the default name of a bundle from elsewhere: the last part of its path.
func (b bundleConfig) remoteName() string {
	if b.Image != "" {
		repository, _, _ := strings.Cut(path.Base(b.Image), "@")
		repository, _, _ = strings.Cut(repository, ":")
		return repository
	}
	target, _, _ := strings.Cut(b.URL, "?")
	return bundleName(strings.TrimSuffix(target, "/"))
}

// addRemote puts into a configuration of bundles what is kept and told elsewhere.
func (c *config) addRemote(out *bundles.Config) {
	if c.StateDir != "" {
		out.Dir = filepath.Join(c.StateDir, "bundles")
		out.Archive = bundles.Archive{Dir: c.pastDir(), For: time.Duration(c.DecisionLog.Keep), Bytes: int64(c.DecisionLog.KeepSize)}
	}
	if c.Status.URL != "" {
		out.Report = &bundles.Report{URL: c.Status.URL, Service: c.services()[c.Status.Service], Labels: c.Status.Labels, Interval: time.Duration(c.Status.Interval)}
	}
}

// pastDir is where bundles are kept by their digest.
func (c *config) pastDir() string { return filepath.Join(c.StateDir, "bundles-by-digest") }

// resolveRemote makes the files of services and remote bundles relative to the configuration's folder.
func (c *config) resolveRemote(resolve func(*string)) {
	for i := range c.Services {
		s := &c.Services[i]
		for _, file := range []*string{&s.CA, &s.Cert, &s.Key, &s.BearerFile} {
			resolve(file)
		}
		if s.OAuth2 != nil {
			resolve(&s.OAuth2.ClientSecretFile)
		}
	}
	for i := range c.Policy.Bundles {
		resolve(&c.Policy.Bundles[i].CredentialFile)
	}
}
