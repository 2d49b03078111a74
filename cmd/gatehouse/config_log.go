package main

import (
	"go.yaml.in/yaml/v3"

	"gatehouse/decisionlog"
)

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
