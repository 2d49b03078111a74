package main

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/decisionlog"
	"gatehouse/upstream"
)

type sinkConfig struct {
	Name string            `yaml:"name" doc:"Tells the sink from others: in metrics, and in dir, where by this name is kept how far it is. Lower-case letters, digits, - and _. Default: file, stdout, opa or otlp."`
	File string            `yaml:"file" doc:"A file, or - for standard output. One of file, opa and otlp is required."`
	OPA  *sinkServerConfig `yaml:"opa" doc:"A receiver of OPA's decision log API."`
	OTLP *sinkServerConfig `yaml:"otlp" doc:"A receiver of OpenTelemetry's logs: OTLP over HTTP, with protobuf."`
}

type sinkServerConfig struct {
	URL        string   `yaml:"url" doc:"The endpoint: https, or http on loopback. OPA's is /logs of a service, a collector's /v1/logs at port 4318. Required."`
	Service    string   `yaml:"service" doc:"The service whose certificates and credential are used. Default: none."`
	MaxRequest size     `yaml:"max_request" doc:"Most bytes of one request, compressed, from 1KiB to 1MiB. An entry that does not fit loses its input, then its result. Default: 32KiB for opa, as with OPA itself; 512KiB for otlp."`
	Delay      duration `yaml:"delay" doc:"How long an entry may wait for others to be sent with. Default: 1s."`
	Timeout    duration `yaml:"timeout" doc:"How long one request may take; then it is sent again. Default: 30s."`
}

// servers are those of the sink, by their kind.
func (c *sinkConfig) servers() map[string]*sinkServerConfig {
	out := map[string]*sinkServerConfig{"opa": c.OPA, "otlp": c.OTLP}
	for kind, s := range out {
		if s == nil {
			delete(out, kind)
		}
	}
	return out
}

// sinks are those of the configuration, still without a connection to their servers.
func (c decisionLogConfig) sinks() []decisionlog.Sink {
	var out []decisionlog.Sink
	for _, s := range c.Sinks {
		out = append(out, decisionlog.Sink{Name: s.Name, File: s.File, OPA: s.OPA.remote(), OTLP: s.OTLP.remote()})
	}
	return out
}

func (c *sinkServerConfig) remote() *decisionlog.Remote {
	if c == nil {
		return nil
	}
	return &decisionlog.Remote{URL: c.URL, MaxRequest: int(c.MaxRequest), Delay: time.Duration(c.Delay), Timeout: time.Duration(c.Timeout)}
}

// sinkServices are the services that the sinks use, in their order.
func (c *config) sinkServices() []upstream.Service {
	services := c.services()
	var out []upstream.Service
	for _, s := range c.DecisionLog.Sinks {
		var one upstream.Service
		for _, server := range s.servers() {
			one = services[server.Service]
		}
		out = append(out, one)
	}
	return out
}

// connect gives sinks what sends to their servers. It connects to nothing yet.
func connect(sinks []decisionlog.Sink, services []upstream.Service) ([]decisionlog.Sink, error) {
	sinks = slices.Clone(sinks)
	for i := range sinks {
		for kind, at := range map[string]**decisionlog.Remote{"opa": &sinks[i].OPA, "otlp": &sinks[i].OTLP} {
			if *at == nil {
				continue
			}
			where := fmt.Sprintf("decision_log.sinks[%d].%s", i, kind)
			if (*at).URL == "" {
				return nil, fmt.Errorf("%s: url: is missing", where)
			}
			poster, err := upstream.NewPoster(services[i], (*at).URL)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			r := **at
			r.URL, r.Post, r.Close = poster.String(), poster.Post, poster.Close
			*at = &r
		}
	}
	return sinks, nil
}

type maskConfig struct {
	Op    string `yaml:"op" doc:"remove or upsert. Default: remove."`
	Path  string `yaml:"path" doc:"A JSON pointer below /input, /result, /identity, /request, /parameters, /peer, /requested_by or /error. Required."`
	Value any    `yaml:"value" doc:"What upsert puts there. Default: null."`
}

// UnmarshalYAML takes a pointer or a mapping.
func (c *maskConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		c.Path = n.Value
		return nil
	}
	type plain maskConfig
	return n.Decode((*plain)(c))
}

func (c decisionLogConfig) masks() []decisionlog.Mask {
	var out []decisionlog.Mask
	for _, m := range c.Mask {
		out = append(out, decisionlog.Mask(m))
	}
	return out
}
