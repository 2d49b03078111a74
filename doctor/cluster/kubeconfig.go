// Package cluster reads what the doctor looks at from a Kubernetes API server: objects of Istio, Envoy Gateway and the Gateway API, Services and workloads.
// It owns the reading of kubeconfig files, the list of what is read, and its bounds. It asks by GET alone, and no Secret, and of ConfigMaps Istio's own.
// Of ours it imports upstream, by whose rules servers are asked, yamltext and watch.
package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/upstream"
	"gatehouse/watch"
	"gatehouse/yamltext"
)

// maxFile bounds a kubeconfig and each file that it names, in bytes.
const maxFile = 1 << 20

// Config is a kubeconfig's context: a server, and how it knows who asks.
type Config struct {
	Context string // its name
	server  *url.URL
	tls     *tls.Config
	token   string
}

// String is the context's name: the token and the key do not print themselves.
func (c *Config) String() string { return "context " + c.Context }

// GoString is the same.
func (c *Config) GoString() string { return c.String() }

// file is a kubeconfig as far as it is used here.
type file struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string
		Context struct{ Cluster, User string }
	}
	Clusters []struct {
		Name    string
		Cluster struct {
			Server     string
			CA         string `yaml:"certificate-authority"`
			CAData     string `yaml:"certificate-authority-data"`
			Insecure   bool   `yaml:"insecure-skip-tls-verify"`
			ServerName string `yaml:"tls-server-name"`
			Proxy      string `yaml:"proxy-url"`
		}
	}
	Users []struct {
		Name string
		User struct {
			Token     string
			TokenFile string `yaml:"tokenFile"`
			Cert      string `yaml:"client-certificate"`
			CertData  string `yaml:"client-certificate-data"`
			Key       string `yaml:"client-key"`
			KeyData   string `yaml:"client-key-data"`
			Username  string
			Exec      any
			Provider  any `yaml:"auth-provider"`
		}
	}
}

// Read reads a context of a kubeconfig file: the current one, where context is "".
func Read(name, context string) (*Config, error) {
	text, err := watch.ReadFile(name, maxFile)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	var f file
	if err := yaml.Unmarshal(text, &f); err != nil {
		return nil, yamltext.Error(name, err)
	}
	if context == "" {
		context = f.Current
	}
	if context == "" {
		return nil, fmt.Errorf("%s: no current-context: name one with --context", name)
	}
	c, err := f.context(context, filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("%s: context %q: %w", name, context, err)
	}
	return c, nil
}

func (f *file) context(name, dir string) (*Config, error) {
	for _, c := range f.Contexts {
		if c.Name != name {
			continue
		}
		made := &Config{Context: name, tls: &tls.Config{MinVersion: tls.VersionTLS12}}
		if err := f.cluster(made, c.Context.Cluster, dir); err != nil {
			return nil, fmt.Errorf("cluster %q: %w", c.Context.Cluster, err)
		}
		if err := f.user(made, c.Context.User, dir); err != nil {
			return nil, fmt.Errorf("user %q: %w", c.Context.User, err)
		}
		return made, nil
	}
	var names []string
	for _, c := range f.Contexts {
		names = append(names, c.Name)
	}
	return nil, fmt.Errorf("it is not in the file, which has: %s", strings.Join(names, ", "))
}

func (f *file) cluster(made *Config, name, dir string) error {
	for _, c := range f.Clusters {
		if c.Name != name {
			continue
		}
		var err error
		switch made.server, err = url.Parse(c.Cluster.Server); {
		case err != nil || made.server.Host == "" || made.server.User != nil:
			return fmt.Errorf("server %q is no URL of a server", c.Cluster.Server)
		case made.server.Scheme != "https" && !upstream.IsLoopback(made.server.Hostname()):
			return fmt.Errorf("server %q is not https: whoever is in between would have the credentials", c.Cluster.Server)
		case c.Cluster.Insecure:
			return errors.New("insecure-skip-tls-verify gives the credentials to whoever answers: put the server's authority into certificate-authority-data")
		case c.Cluster.Proxy != "":
			return errors.New("proxy-url is not supported here: save the objects with kubectl get -o yaml")
		}
		made.tls.ServerName = c.Cluster.ServerName
		ca, err := given(dir, c.Cluster.CA, c.Cluster.CAData)
		if err != nil {
			return fmt.Errorf("certificate-authority: %w", err)
		}
		if ca != nil {
			made.tls.RootCAs = x509.NewCertPool()
			if !made.tls.RootCAs.AppendCertsFromPEM(ca) {
				return errors.New("certificate-authority: there is no certificate in it")
			}
		}
		return nil
	}
	return errors.New("it is not in the file")
}

func (f *file) user(made *Config, name, dir string) error {
	for _, u := range f.Users {
		if u.Name != name {
			continue
		}
		if u.User.Exec != nil || u.User.Provider != nil || u.User.Username != "" {
			return errors.New("only a token or a client certificate is supported, and no program is run: make a token with kubectl create token, or save the objects with kubectl get -o yaml")
		}
		made.token = u.User.Token
		if u.User.TokenFile != "" && made.token == "" {
			text, err := watch.ReadFile(beside(dir, u.User.TokenFile), maxFile)
			if err != nil {
				return fmt.Errorf("tokenFile: %w", err)
			}
			made.token = strings.TrimSpace(string(text))
		}
		cert, err := given(dir, u.User.Cert, u.User.CertData)
		if err != nil {
			return fmt.Errorf("client-certificate: %w", err)
		}
		key, err := given(dir, u.User.Key, u.User.KeyData)
		if err != nil {
			return fmt.Errorf("client-key: %w", err)
		}
		if cert != nil || key != nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				return fmt.Errorf("client-certificate and client-key: %w", err)
			}
			made.tls.Certificates = []tls.Certificate{pair}
		}
		return nil
	}
	return errors.New("it is not in the file")
}

// given is what stands in the file itself, else in the one that it names; nil where there is neither.
func given(dir, name, data string) ([]byte, error) {
	switch {
	case data != "":
		text, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return nil, errors.New("the data is not base64")
		}
		return text, nil
	case name != "":
		return watch.ReadFile(beside(dir, name), maxFile)
	}
	return nil, nil
}

func beside(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}
