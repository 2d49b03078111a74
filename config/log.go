package config

import (
	"go.yaml.in/yaml/v3"
)

// Sink is one more place that decisions go to.
type Sink struct {
	Name string      `yaml:"name" doc:"Tells the sink from others: in metrics, and in dir, where by this name is kept how far it is. Lower-case letters, digits, - and _. Default: file, stdout, opa, otlp or control."`
	File string      `yaml:"file" doc:"A file, or - for standard output. One of file, opa, otlp and control is required."`
	OPA  *SinkServer `yaml:"opa" doc:"A receiver of OPA's decision log API."`
	OTLP *SinkServer `yaml:"otlp" doc:"A receiver of OpenTelemetry's logs: OTLP over HTTP, with protobuf."`
	// Control is a sink of its own kind: which control, and who we are there, is said elsewhere.
	Control *ControlSink `yaml:"control" doc:"The control plane that directory.control names, with this edge's own certificate. control: {} is enough."`
}

// ControlSink is how decisions go to the control plane.
type ControlSink struct {
	MaxRequest Size     `yaml:"max_request" doc:"Most bytes of one request, compressed, from 1KiB to 1MiB. Default: 512KiB."`
	Delay      Duration `yaml:"delay" doc:"How long an entry may wait for others to be sent with. Default: 1s."`
	Timeout    Duration `yaml:"timeout" doc:"How long one request may take; then it is sent again. Default: 30s."`
}

// SinkServer is the server that a sink sends to, and how.
type SinkServer struct {
	URL        string   `yaml:"url" doc:"The endpoint: https, or http on loopback. OPA's is /logs of a service, a collector's /v1/logs at port 4318. Required."`
	Service    string   `yaml:"service" doc:"The service whose certificates and credential are used. Default: none."`
	MaxRequest Size     `yaml:"max_request" doc:"Most bytes of one request, compressed, from 1KiB to 1MiB. An entry that does not fit loses its input, then its result. Default: 32KiB for opa, as with OPA itself; 512KiB for otlp."`
	Delay      Duration `yaml:"delay" doc:"How long an entry may wait for others to be sent with. Default: 1s."`
	Timeout    Duration `yaml:"timeout" doc:"How long one request may take; then it is sent again. Default: 30s."`
}

// Servers are those of the sink, by their kind.
func (c *Sink) Servers() map[string]*SinkServer {
	out := map[string]*SinkServer{"opa": c.OPA, "otlp": c.OTLP}
	for kind, s := range out {
		if s == nil {
			delete(out, kind)
		}
	}
	return out
}

// Mask takes something out of every entry of the decision log, or replaces it.
type Mask struct {
	Op    string `yaml:"op" doc:"remove or upsert. Default: remove."`
	Path  string `yaml:"path" doc:"A JSON pointer below /input, /result, /identity, /request, /parameters, /peer, /requested_by or /error. Required."`
	Value any    `yaml:"value" doc:"What upsert puts there. Default: null."`
}

// UnmarshalYAML takes a pointer or a mapping.
func (c *Mask) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		c.Path = n.Value
		return nil
	}
	type plain Mask
	return n.Decode((*plain)(c))
}

// DecisionLog says where decisions are recorded, what they leave out, and how long they are kept.
type DecisionLog struct {
	File     string            `yaml:"file" doc:"A file, or - for standard output: short for the first of sinks. Without it and sinks there is no decision log. Default: none."`
	Sinks    []Sink            `yaml:"sinks" doc:"Where else decisions go, each sink at its own pace. Several, and one that is a server, need dir or state_dir. Default: none."`
	OnFull   string            `yaml:"on_full" doc:"When the log cannot keep up: wait (bounded by the request's deadline), drop (counted, and recorded as a gap) or deny. Default: wait."`
	Labels   map[string]string `yaml:"labels" doc:"Written with every entry."`
	MaxEntry Size              `yaml:"max_entry" doc:"Longest line; a longer one loses its input. Default: 64KiB."`
	Redact   Redact            `yaml:"redact" doc:"Credentials to take out beyond those known by default."`
	Headers  []string          `yaml:"headers" doc:"Names of the request headers whose values are recorded; of the others only that they were there. explain and replay report what they are missing. Default: all, but for credentials."`
	Mask     []Mask            `yaml:"mask" doc:"What else to take out of an entry on its way out of dir: JSON pointers, or {op, path, value} as in OPA. The policy can say more, in data.system.log.mask (docs/decisionlog.md). Default: nothing."`
	Claims   []string          `yaml:"claims" doc:"Names of claims of the caller that are recorded. Default: none."`
	Keep     Duration          `yaml:"keep_bundles" doc:"How long a bundle is kept in state_dir after it was last active, by the digest that its decisions name: for gatehouse explain, and for replay --old auto. 0s keeps none. Default: 720h."`
	KeepSize Size              `yaml:"keep_bundles_size" doc:"Most bytes of bundles that are kept so; the oldest go first, the active ones never. Default: 256MiB."`
	Dir      string            `yaml:"dir" doc:"A folder for decisions that are not in the log yet: they are there before they are answered, and outlive the process. It belongs to one process, and is made where it is missing. Needs Linux. Default: decisions in state_dir, and without that they wait in memory."`
	Sync     Duration          `yaml:"sync" doc:"How often dir is synced to the disk: what a loss of power may cost at most. Default: 1s."`
	MaxSize  Size              `yaml:"max_size" doc:"Most bytes in dir, at least sixteen times max_entry; then on_full decides. Default: 1GiB."`
}

// Redact names further headers and parameters whose values are never recorded.
type Redact struct {
	Headers []string `yaml:"headers" doc:"Names of headers."`
	Params  []string `yaml:"params" doc:"Names of query parameters, and of members of the body."`
}

// Traces says where OpenTelemetry traces go, and which requests have one.
type Traces struct {
	OTLP     string  `yaml:"otlp" doc:"host:port of an OTLP collector's gRPC receiver. Empty: no traces. Default: none. Changes need a restart."`
	Insecure bool    `yaml:"insecure" doc:"true speaks plain text to the collector; only for loopback or a mesh. Default: false."`
	Ratio    float64 `yaml:"ratio" doc:"Share of the requests without a parent span that begin a trace, 0 to 1. With a parent its decision holds. Default: 0."`
}

// Log says which events operators see on standard error, and in which format.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error. Default: info."`
	Format string `yaml:"format" doc:"json or console. Default: json."`
}
