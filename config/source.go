package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Source says where the configuration comes from: a file, or defaults with a bundle directory.
type Source struct {
	File   string // --config
	Bundle string // --bundle
	// Instead puts the bundle in the place of the configuration's.
	Instead bool
	Plain   bool // --plain
	// Change is given what was read, each time: what only this process wants otherwise. nil changes nothing.
	Change func(*Config)
	// Policy is where the one bundle of the configuration comes from instead: oci://IMAGE, an http URL, or a path. Its name, signing keys and
	// credentials stay.
	Policy string // --policy
}

// Read gives the configuration and the document that its problems are located in, the ones found so far among them. Relative paths become relative to the
// file's directory.
func (s Source) Read() (*Config, *Document, error) {
	cfg := Default()
	cfg.Plain = s.Plain
	doc := &Document{File: "command line", Lines: map[string]int{}}
	if s.File != "" {
		text, err := ReadBounded(s.File)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the configuration: %w", err)
		}
		if doc, err = DecodeYAML(s.File, text, cfg); err != nil {
			return nil, nil, err
		}
		cfg.relativeTo(filepath.Dir(s.File))
	}
	cfg.complete(doc)
	if s.Bundle != "" && s.Instead {
		cfg.insteadOfBundles(s.Bundle)
	} else if s.Bundle != "" {
		cfg.Policy.Bundles = append(cfg.Policy.Bundles, Bundle{Path: s.Bundle})
	}
	if s.Policy != "" {
		if err := cfg.policyFrom(s.Policy); err != nil {
			return nil, nil, err
		}
	}
	cfg.Policy.each(func(b *Bundle) {
		if b.Name == "" && b.Path != "" {
			if abs, err := filepath.Abs(b.Path); err == nil {
				b.Name = BundleName(abs)
			}
		} else if b.Name == "" {
			b.Name = b.remoteName()
		}
	})
	if s.Change != nil {
		s.Change(cfg)
	}
	return cfg, doc, nil
}

// ReadBounded reads a file that is no larger than gatehouse.yaml may be.
func ReadBounded(file string) ([]byte, error) { return ReadUpTo(file, maxConfig) }

// ReadUpTo reads a file of at most limit bytes; a larger one is an error. Unlike watch.ReadFile it reads pipes too: whoever runs a command may
// name /dev/stdin or <(...), and nothing else waits for it.
func ReadUpTo(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, limit)
	}
	return text, nil
}

func (c *Config) relativeTo(dir string) {
	resolve := func(p *string) {
		if *p != "" && *p != "-" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	resolve(&c.StateDir)
	resolve(&c.Headers.JWT.KeyFile)
	c.resolveRemote(resolve)
	for i := range c.Identity.JWT {
		resolve(&c.Identity.JWT[i].Keys.File)
	}
	for i := range c.Identity.Introspection {
		resolve(&c.Identity.Introspection[i].ClientSecretFile)
		resolve(&c.Identity.Introspection[i].PrivateKeyFile)
	}
	resolve(&c.Identity.APIKeys.File)
	c.Policy.each(func(b *Bundle) {
		resolve(&b.Path)
		if b.Signing != nil {
			for k := range b.Signing.Keys {
				resolve(&b.Signing.Keys[k].File)
			}
		}
	})
	for i := range c.Policy.Smoke {
		resolve(&c.Policy.Smoke[i])
	}
	if path, ok := CutUnix(c.Listen.Control); ok && path != "" {
		resolve(&path)
		c.Listen.Control = "unix:" + path
	}
	resolve(&c.DecisionLog.File)
	for i := range c.DecisionLog.Sinks {
		resolve(&c.DecisionLog.Sinks[i].File)
	}
	resolve(&c.DecisionLog.Dir)
	resolve(&c.Policy.Protos)
	resolve(&c.Routes.File)
	resolve(&c.Directory.File)
	resolve(&c.Directory.Manifest)
	resolve(&c.Control.CA)
	resolve(&c.Control.EnrollTokenFile)
	for i := range c.Apps {
		resolve(&c.Apps[i].Routes.File)
	}
	if d := c.Listen.Directory; d != nil {
		resolve(&d.Keys)
		resolveTLS(d.TLS, resolve)
		resolveSockets(d.GRPC, resolve)
	}
	resolveTLS(c.Listen.TLS, resolve)
	resolveSockets(c.Listen.GRPC, resolve)
	if h := c.Listen.HTTP; h != nil {
		if path, ok := CutUnix(h.Address); ok && path != "" {
			resolve(&path)
			h.Address = "unix:" + path
		}
	}
	for status, t := range c.Denials.Templates {
		resolve(&t.File)
		c.Denials.Templates[status] = t
	}
}

func resolveTLS(t *TLS, resolve func(*string)) {
	if t != nil {
		resolve(&t.Cert)
		resolve(&t.Key)
		resolve(&t.ClientCA)
	}
}

func resolveSockets(addresses []string, resolve func(*string)) {
	for i, address := range addresses {
		if path, ok := CutUnix(address); ok && path != "" {
			resolve(&path)
			addresses[i] = "unix:" + path
		}
	}
}

// resolveRemote makes the files of services and remote bundles relative to the configuration's folder.
func (c *Config) resolveRemote(resolve func(*string)) {
	for i := range c.Services {
		s := &c.Services[i]
		for _, file := range []*string{&s.CA, &s.Cert, &s.Key, &s.BearerFile} {
			resolve(file)
		}
		if s.OAuth2 != nil {
			resolve(&s.OAuth2.ClientSecretFile)
		}
	}
	c.Policy.each(func(b *Bundle) { resolve(&b.CredentialFile) })
}

// OrDefault is the source with ./gatehouse.yaml where no configuration was named. A bundle takes the place of that one's bundles, and of
// nothing else that it says.
func (s Source) OrDefault() (Source, error) {
	if s.File != "" {
		return s, nil
	}
	if _, err := os.Stat("gatehouse.yaml"); err != nil {
		if s.Bundle != "" && errors.Is(err, fs.ErrNotExist) {
			return s, nil
		}
		return s, errors.New("there is no gatehouse.yaml here: give --config FILE, or --bundle DIR to go with defaults")
	}
	s.File, s.Instead = "gatehouse.yaml", true
	return s, nil
}
