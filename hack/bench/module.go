package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"gatehouse/envoy/sandbox"
)

// way is one way of having a request decided about, by a listener of its own of one Envoy.
type way struct {
	Name    string
	Port    string
	Filters string // in YAML
	Asks    *server
	samples map[string][]sample
}

var moduleConfig = template.Must(template.New("envoy.yaml").Parse(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Admin}}}}}
static_resources:
  listeners:
{{- range .Ways}}
    - name: {{.Name}}
      address: {socket_address: {address: 127.0.0.1, port_value: {{.Port}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: {{.Name}}
                use_remote_address: true
                route_config:
                  virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: ok}}}]}]
                http_filters:
{{.Filters}}
                  - {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
{{- end}}
  clusters:
{{- range .Ways}}{{if .Asks}}
    - name: {{.Name}}
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: {{.Name}}
        endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: {{.Asks.SocketPath}}}}}}]}]
{{- end}}{{end}}
`))

// SocketPath is where Envoy asks the server.
func (s *server) SocketPath() string { return strings.TrimPrefix(s.socket, "unix:") }

// nativeFilters are Envoy's own: the token's signature, and a role.
func nativeFilters(keys, cache string) string {
	return fmt.Sprintf(`                  - name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers: {p: {issuer: "https://login.example.com", audiences: [orders], local_jwks: {filename: %s}, payload_in_metadata: payload%s}}
                      rules: [{match: {prefix: /}, requires: {provider_name: p}}]
                  - name: envoy.filters.http.rbac
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
                      rules: {action: ALLOW, policies: {readers: {permissions: [{and_rules: {rules: [{header: {name: ":method", string_match: {exact: GET}}},
                        {or_rules: {rules: [{url_path: {path: {prefix: /orders}}}, {url_path: {path: {prefix: /users/}}}]}}]}}],
                        principals: [{metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: roles}], value: {list_match: {one_of: {string_match: {exact: role-001}}}}}}]}}}`, keys, cache)
}

func askingFilter(name string) string {
	return fmt.Sprintf(`                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      grpc_service: {envoy_grpc: {cluster_name: %s}, timeout: 10s}`, name)
}

func moduleFilter(file string) string {
	return fmt.Sprintf(`                  - name: gatehouse
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter
                      dynamic_module_config: {name: gatehouse, do_not_close: true}
                      filter_name: gatehouse
                      filter_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: %s}`, file)
}

// measureModule prints what each way of deciding costs, in one Envoy with one worker, run after run of each in turn.
func (b bench) measureModule(ctx context.Context, out io.Writer, library string) error {
	library, err := filepath.Abs(library)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := newFixture(filepath.Join(dir, "server"), shape{})
	if err != nil {
		return err
	}
	inside, err := f.copyTo(filepath.Join(dir, "module"))
	if err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	file := filepath.Join(inside.dir, "gatehouse.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "ADMIN", admin)), 0o644); err != nil {
		return err
	}
	noop, err := startNoop(ctx, dir)
	if err != nil {
		return err
	}
	defer noop.stop()
	gatehouse, err := startGatehouse(ctx, b.gatehouse, f.dir)
	if err != nil {
		return err
	}
	defer gatehouse.stop()
	keys := filepath.Join(f.dir, "jwks.json")
	ways := []*way{
		{Name: "none"},
		{Name: "native", Filters: nativeFilters(keys, "")},
		{Name: "native-cached", Filters: nativeFilters(keys, ", jwt_cache_config: {jwt_cache_size: 1000}")},
		{Name: "no-op", Filters: askingFilter("no-op"), Asks: noop},
		{Name: "server", Filters: askingFilter("server"), Asks: gatehouse},
		{Name: "module", Filters: moduleFilter(file)},
	}
	envoy, err := b.startWays(ctx, dir, library, ways)
	if err != nil {
		return err
	}
	defer envoy.stop()
	repeated, err := f.httpRequests()
	if err != nil {
		return err
	}
	fresh, err := f.freshRequests()
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name string
		next func() []byte
	}{{"repeated", repeated}, {"new", fresh}} {
		for round := range b.pairs + 1 {
			for _, w := range ways {
				s, err := b.runWay(ctx, envoy, w, kind.next)
				if err != nil {
					return err
				}
				if round > 0 { // the first is for warming up
					w.samples[kind.name] = append(w.samples[kind.name], s)
				}
			}
		}
	}
	now, most := envoy.resident()
	return writeWays(out, ways, fmt.Sprintf("%d connections, one worker; medians of %d interleaved runs of %v; RS256 tokens of 20 callers, 17 headers; Envoy with the module: %d MB, at most %d MB",
		moduleCallers, b.pairs, b.length, now>>20, most>>20))
}

// moduleCallers is how many connections make requests.
const moduleCallers = 8

func (b bench) startWays(ctx context.Context, dir, library string, ways []*way) (*server, error) {
	binary, err := sandbox.Prepare(ctx, b.root, func(text string) { fmt.Fprintln(os.Stderr, "bench: "+text) })
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	for _, w := range ways {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		_, w.Port, _ = net.SplitHostPort(address)
		w.samples = map[string][]sample{}
	}
	var text bytes.Buffer
	_, port, _ := net.SplitHostPort(admin)
	if err := moduleConfig.Execute(&text, map[string]any{"Admin": port, "Ways": ways}); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		return nil, err
	}
	if err := os.Setenv("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", filepath.Dir(library)); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, binary, "--mode", "validate", "-c", file, "--log-level", "error").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	s := &server{name: "envoy", tcp: "127.0.0.1:" + ways[len(ways)-1].Port}
	return s, s.start(ctx, binary, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
}

// runWay makes one run. The CPU is Envoy's and that of whom it asks.
func (b bench) runWay(ctx context.Context, envoy *server, w *way, next func() []byte) (sample, error) {
	used := func() (total time.Duration, err error) {
		if total, err = envoy.cpu(); err == nil && w.Asks != nil {
			var more time.Duration
			more, err = w.Asks.cpu()
			total += more
		}
		return total, err
	}
	callers := make([]caller, moduleCallers)
	for i := range callers {
		callers[i] = func(ctx context.Context, until time.Time) ([]time.Duration, error) {
			return browse(ctx, backend{Name: w.Name, Port: w.Port}, until, next)
		}
	}
	before, err := used()
	if err != nil {
		return sample{}, err
	}
	begin := time.Now()
	latencies, err := runCallers(ctx, begin.Add(b.length), callers)
	if err != nil {
		return sample{}, err
	}
	s := distribution(latencies, time.Since(begin))
	after, err := used()
	s.cpu = (after - before).Seconds() * 1e6 / float64(len(latencies))
	return s, err
}

// freshRequests are decisions that were never made before, as a browser asks for them.
func (f *fixture) freshRequests() (func() []byte, error) {
	const hole = "########"
	tokens, err := f.mint(0, users)
	if err != nil {
		return nil, err
	}
	templates := make([][]byte, len(tokens))
	for user, token := range tokens {
		templates[user] = httpRequest(token, "/users/"+userName(user)+"/orders/"+hole)
	}
	return func() []byte {
		n := f.last.Add(1)
		return bytes.ReplaceAll(templates[n%users], []byte(hole), fmt.Appendf(nil, "%08d", n))
	}, nil
}

// writeWays prints each way's figures, and their ratios to those of Envoy's own filters in the same rounds.
func writeWays(out io.Writer, ways []*way, method string) error {
	fmt.Fprintln(out, method)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, kind := range []string{"repeated", "new"} {
		fmt.Fprintf(t, "\n%s decisions\treq/s\tx native\tx native-cached\tx no-op\tCPU us\tp50\tp99\n", kind)
		for _, w := range ways {
			of := func(get func(sample) float64) float64 { return medianOf(w.samples[kind], get) }
			ratio := func(name string) string {
				other := ways[slices.IndexFunc(ways, func(o *way) bool { return o.Name == name })].samples[kind]
				var all []float64
				for i, s := range w.samples[kind] {
					all = append(all, s.rate/other[i].rate)
				}
				slices.Sort(all)
				return fmt.Sprintf("%.2f (%.2f-%.2f)", all[len(all)/2], all[0], all[len(all)-1])
			}
			fmt.Fprintf(t, "%s\t%.0f\t%s\t%s\t%s\t%.0f\t%v\t%v\n", w.Name, of(func(s sample) float64 { return s.rate }), ratio("native"), ratio("native-cached"), ratio("no-op"),
				of(func(s sample) float64 { return s.cpu }), time.Duration(of(func(s sample) float64 { return float64(s.p50) })).Round(time.Microsecond),
				time.Duration(of(func(s sample) float64 { return float64(s.p99) })).Round(time.Microsecond))
		}
	}
	return t.Flush()
}

// medianOf is the median of what get reads of samples.
func medianOf(samples []sample, get func(sample) float64) float64 {
	all := make([]float64, len(samples))
	for i, s := range samples {
		all[i] = get(s)
	}
	return middle(all)
}
