package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
)

// Control says which control plane this edge follows.
type Control struct {
	URL             string `yaml:"url" doc:"Where control is: https://host:port. Required."`
	CA              string `yaml:"ca" doc:"A file with the certificate of control's own authority (ca.pem in its folder), PEM. Required, or pin."`
	Pin             string `yaml:"pin" doc:"Instead of ca: the SHA-256 of that certificate in hexadecimal, which gatehouse control enroll prints."`
	EnrollTokenFile string `yaml:"enroll_token_file" doc:"A file with a one-time token of gatehouse control enroll. With it this edge gets its certificate, which it keeps in state_dir and renews by itself; after that the file may go. A new token in it lets an edge in again that was refused. Default: none."`
	Name            string `yaml:"name" doc:"What control calls this edge, where its token does not name it. Default: the host's name."`
}

// ControlDir is where an edge keeps its certificate and its copy of the directory.
func (c *Config) ControlDir() string { return filepath.Join(c.StateDir, "control") }

// validateControl checks the section, and what others say about it.
func (c *Config) validateControl() error {
	k := c.Control
	for i, s := range c.DecisionLog.Sinks {
		at := fmt.Sprintf("decision_log.sinks[%d].control", i)
		switch {
		case s.Control == nil:
		case s.File != "" || s.OPA != nil || s.OTLP != nil:
			return Wrong(at, "a sink is one of file, opa, otlp and control")
		case !c.Directory.Control && !c.Policy.FromControl():
			return Wrong(at, "set directory.control: true or policy.bundles: [{control: true}]: with it this edge has its certificate")
		}
	}
	key := "directory.control"
	switch {
	case c.Directory.Control:
	case c.Policy.FromControl():
		key = "policy.bundles"
	case k != (Control{}):
		return Wrong("control.url", "nothing is taken from control: set directory.control: true or policy.bundles: [{control: true}], or remove control")
	default:
		return nil
	}
	var errs []error
	u, err := url.Parse(k.URL)
	switch {
	case k.URL == "":
		errs = append(errs, Wrong("control.url", "required: something is taken from control, and nothing says where it is"))
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		errs = append(errs, Wrong("control.url", "%q: give https://host:port", k.URL))
	}
	pin, err := hex.DecodeString(k.Pin)
	switch {
	case k.CA == "" && k.Pin == "":
		errs = append(errs, Wrong("control.pin", "give it, or control.ca: gatehouse control enroll prints the pin"))
	case k.CA != "" && k.Pin != "":
		errs = append(errs, Wrong("control.pin", "give it or control.ca, not both"))
	case k.Pin != "" && (err != nil || len(pin) != 32):
		errs = append(errs, Wrong("control.pin", "%q is no SHA-256 in hexadecimal, which has 64 digits", k.Pin))
	}
	kept := slices.ContainsFunc(c.Policy.Bundles, func(b Bundle) bool { return b.Kept != "" })
	if c.StateDir == "" && c.Directory.Dir == "" && !kept {
		errs = append(errs, Wrong(key, "set state_dir: the edge's certificate and its copies of what control sent are kept there"))
	}
	return errors.Join(errs...)
}
