package dynmod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// Settings are those of one filter: filter_config in Envoy's configuration. What they have in common with Envoy's ext_authz filter has its names
// and its meaning.
type Settings struct {
	// Config is the path of gatehouse.yaml. Relative paths are relative to Envoy's working directory.
	Config string `json:"config"`
	// WithRequestBody has the policy see the body; nil: it does not.
	WithRequestBody *RequestBody `json:"with_request_body"`
	// ContextExtensions are given to the gate, such as gatehouse.app.
	ContextExtensions map[string]string `json:"context_extensions"`
	// ClearRouteCache has Envoy choose the route anew where the gate changes a request.
	ClearRouteCache bool `json:"clear_route_cache"`
	// IncludeTLSSession tells the policy the server name that the client asked for.
	IncludeTLSSession bool `json:"include_tls_session"`
	// Timeout bounds a decision that has to wait. Default: 250ms.
	Timeout duration `json:"timeout"`
	// WaitForPolicy is that of gatehouse serve: a policy that cannot be used denies instead of being refused.
	WaitForPolicy bool `json:"wait_for_policy"`
	// AnyEnvoy lets the module run in an Envoy whose version it was not tried with.
	AnyEnvoy bool `json:"any_envoy"`
}

// RequestBody is ext_authz's with_request_body.
type RequestBody struct {
	MaxRequestBytes     uint32 `json:"max_request_bytes"`
	AllowPartialMessage bool   `json:"allow_partial_message"`
	PackAsBytes         bool   `json:"pack_as_bytes"`
}

// Route are the settings of a route: typed_per_filter_config.
type Route struct {
	ContextExtensions           map[string]string `json:"context_extensions"`
	DisableRequestBodyBuffering bool              `json:"disable_request_body_buffering"`
}

const (
	defaultTimeout = 250 * time.Millisecond
	maxTimeout     = time.Minute
	maxBody        = 64 << 20 // bytes
	maxSettings    = 1 << 20  // bytes
)

// ParseSettings reads filter_config: an object, or only the path of gatehouse.yaml.
func ParseSettings(text string) (*Settings, error) {
	s := &Settings{}
	if trimmed := strings.TrimSpace(text); !strings.HasPrefix(trimmed, "{") {
		s.Config = trimmed
	} else if err := strict(text, s); err != nil {
		return nil, fmt.Errorf("filter_config: %w", err)
	}
	if s.Config == "" {
		return nil, errors.New(`filter_config: give the path of gatehouse.yaml: {"config": "/etc/gatehouse/gatehouse.yaml"}`)
	}
	var err error
	if s.Config, err = filepath.Abs(s.Config); err != nil {
		return nil, fmt.Errorf("filter_config: config: %w", err)
	}
	if s.Timeout == 0 {
		s.Timeout = duration(defaultTimeout)
	}
	if s.Timeout < 0 || time.Duration(s.Timeout) > maxTimeout {
		return nil, fmt.Errorf("filter_config: timeout: %v: give a time above zero, up to %v", time.Duration(s.Timeout), maxTimeout)
	}
	if b := s.WithRequestBody; b != nil && (b.MaxRequestBytes == 0 || b.MaxRequestBytes > maxBody) {
		return nil, fmt.Errorf("filter_config: with_request_body.max_request_bytes: %d: give 1 to %d", b.MaxRequestBytes, maxBody)
	}
	return s, nil
}

// ParseRoute reads the filter_config of a route.
func ParseRoute(text string) (*Route, error) {
	r := &Route{}
	if err := strict(text, r); err != nil {
		return nil, fmt.Errorf("filter_config of a route: %w", err)
	}
	return r, nil
}

// strict decodes one JSON object; a member that is not known is an error.
func strict(text string, into any) error {
	if len(text) > maxSettings {
		return fmt.Errorf("it has %d bytes, at most %d are read", len(text), maxSettings)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more follows the object")
	}
	return nil
}

// duration is a time such as 250ms, as in gatehouse.yaml.
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error {
	out, err := time.ParseDuration(string(text))
	*d = duration(out)
	return err
}
