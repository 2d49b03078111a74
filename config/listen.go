package config

// Listen says where Gatehouse listens, and bounds connections.
type Listen struct {
	GRPC           []string         `yaml:"grpc" doc:"Addresses of the ext_authz gRPC service: host:port or unix:/path.sock. Default: [\"127.0.0.1:9191\"]."`
	HTTP           *HTTP            `yaml:"http" doc:"Authorization over HTTP, for proxies that do not speak Envoy's gRPC. grpc may then be an empty list. Default: none."`
	Admin          string           `yaml:"admin" doc:"Address of /healthz, /readyz, /metrics and /status, read-only. Empty string: none. Default: 127.0.0.1:9192."`
	Control        string           `yaml:"control" doc:"A unix socket (unix:/path.sock, mode 0600) for gatehouse reload, status, and bundle rollback, unpin and history: the only place that changes anything. Default: none."`
	JWKS           string           `yaml:"jwks" doc:"Address at which applications find the keys of headers.jwt: HTTP, GET /.well-known/jwks.json and nothing else. Default: none."`
	Directory      *ListenDirectory `yaml:"directory" doc:"Where applications ask the directory and the policy themselves, as Aserto's clients do: docs/clients.md. Default: none."`
	TLS            *TLS             `yaml:"tls" doc:"TLS on the TCP addresses of grpc and http. Default: none, so keep to loopback or a unix socket."`
	Socket         Socket           `yaml:"socket" doc:"Mode and owner of unix sockets. One whose file is removed while it is in use is made again within a second."`
	MaxConnections int              `yaml:"max_connections" doc:"Most connections at once on one address. At the limit, a new connection replaces the oldest one that has had no answer yet; if all have had one, it is refused. Default: 1024."`
	MaxPerPeer     int              `yaml:"max_connections_per_peer" doc:"Most of them for one peer: an IPv4 address, the /64 of an IPv6 address, on a unix socket the user. Raise it where all proxies come by way of one address. Default: 0, which is half of max_connections."`
	MaxStreams     int              `yaml:"max_streams" doc:"Most requests at once on one connection; Envoy opens further connections by itself. Default: 1000."`
	MaxRequests    int              `yaml:"max_requests" doc:"Most requests at once on all connections. Beyond it the connection with the most stalled requests is cut: those not sent completely, and those whose answer is not read. A connection with no more than an equal part of the limit (limit / connections) is not cut: limits.concurrent bounds regular load. Default: 8192."`
	MaxPending     Size             `yaml:"max_pending" doc:"Most bytes of requests that are not complete yet, on all connections. Beyond it the connection with most of them is cut. Default: 256MiB."`
	Handshake      Duration         `yaml:"handshake_timeout" doc:"How long TLS and the beginning of HTTP/2 may take. Default: 5s."`
	FirstRequest   Duration         `yaml:"first_request_timeout" doc:"How long a new gRPC connection may go without a first answered request. One that has had an answer is never cut for being idle. Default: 30s."`
	RequestTimeout Duration         `yaml:"request_timeout" doc:"How long a request over gRPC may take to arrive, from its first byte to its last; then its connection is cut. More than the timeout of Envoy's ext_authz filter. Over HTTP it is 10s. Default: 10s."`
	Idle           Duration         `yaml:"idle_timeout" doc:"How long a connection may be idle. Over gRPC it is then ended with GOAWAY, which costs no request; over HTTP it should be more than the proxy's own idle time, so that the proxy ends it first (Envoy 1h, Traefik 90s, nginx 60s). Default: 90m."`
	MaxAge         Duration         `yaml:"max_age" doc:"Maximum age of a gRPC connection; then it is ended with GOAWAY, and requests under way have a minute. 0s: no limit. Default: 24h."`
	DrainDelay     Duration         `yaml:"drain_delay" doc:"How long to say NOT_SERVING before the listeners close, so that health checks notice: more than their interval times their threshold, plus the cluster's update_merge_window (1s in Envoy unless set). Default: 0s."`
	DrainTimeout   Duration         `yaml:"drain_timeout" doc:"How long requests under way may take to end at shutdown. Default: 10s."`
}

// HTTP is authorization over HTTP, for proxies that do not speak gRPC.
type HTTP struct {
	Address    string `yaml:"address" doc:"host:port or unix:/path.sock. Required."`
	Proxy      string `yaml:"proxy" doc:"Who asks: envoy (http_service), nginx (auth_request) or traefik (ForwardAuth). Only that proxy's own fields are believed: X-Original-* of nginx, X-Forwarded-* of traefik. Required."`
	PathPrefix string `yaml:"path_prefix" doc:"Envoy's path_prefix, which is taken off every path. A request without it is denied (bad_request). Default: none."`
}

// ListenDirectory is where applications ask the directory and the policy themselves.
type ListenDirectory struct {
	GRPC    []string `yaml:"grpc" doc:"Addresses of the gRPC services: host:port or unix:/path.sock. Without tls those of this machine alone. Default: none, where http is set."`
	HTTP    []string `yaml:"http" doc:"Addresses of the OpenID AuthZEN Authorization API 1.0, as those of grpc: docs/authzen.md. Default: none."`
	AuthZEN AuthZEN  `yaml:"authzen" doc:"What is asked on the addresses of http."`
	TLS     *TLS     `yaml:"tls" doc:"TLS on the TCP addresses; Aserto's clients want it. Default: none."`
	Queries bool     `yaml:"queries" doc:"true evaluates queries in Rego that clients write (Authorizer's Query), for keys with the scope query: they read all of the policy's data, and take CPU time beside the decisions. Default: false."`
	Keys    string   `yaml:"keys" doc:"The keys of those who may ask: a file as gatehouse identity new-key makes it. Any key may read the directory; only one with the scope act-as may have rules decide about users by name, others by the user's token; write lets it change a directory that is writable, read-policy list the policy's modules, query send queries of its own. Watched. Required."`
}

// AuthZEN is what the OpenID AuthZEN Authorization API asks.
type AuthZEN struct {
	Decision string `yaml:"decision" doc:"Path of the rule that decides: authzen/allow is data.authzen.allow. Keys then need the scope act-as, and nothing can be searched. Default: none, the directory decides."`
	URL      string `yaml:"url" doc:"https://host by which clients know it, for its metadata. Default: the host that a client asks."`
}

// TLS is the certificate of the TCP listeners, and who clients' certificates must be from.
type TLS struct {
	Cert       string `yaml:"cert" doc:"Certificate chain, PEM. Watched: a changed file is in use within seconds, a broken one is reported and the old stays."`
	Key        string `yaml:"key" doc:"Its private key, PEM."`
	ClientCA   string `yaml:"client_ca" doc:"Certificates, PEM: a client must show one that they signed (mTLS). Default: clients show none."`
	MinVersion string `yaml:"min_version" doc:"\"1.2\" or \"1.3\". Default: \"1.2\"."`
}

// Socket is the mode and the owner of unix sockets.
type Socket struct {
	Mode  string `yaml:"mode" doc:"File mode in octal. Default: \"0660\"."`
	Owner string `yaml:"owner" doc:"User that owns the socket. Default: the one that runs Gatehouse."`
	Group string `yaml:"group" doc:"Group that owns the socket. Default: the one that runs Gatehouse."`
}

// PerPeer is how many connections one peer may have on one listener.
func (c Listen) PerPeer() int {
	if c.MaxPerPeer > 0 {
		return c.MaxPerPeer
	}
	return max(1, c.MaxConnections/2)
}

// ValidateLimits checks the bounds and deadlines of connections.
func (c Listen) ValidateLimits() []error {
	var errs []error
	positive := func(key string, ok bool) {
		if !ok {
			errs = append(errs, Wrong("listen."+key, "must be above zero"))
		}
	}
	positive("max_connections", c.MaxConnections > 0)
	positive("max_streams", c.MaxStreams > 0)
	positive("max_requests", c.MaxRequests > 0)
	positive("max_pending", c.MaxPending > 0)
	positive("handshake_timeout", c.Handshake > 0)
	positive("first_request_timeout", c.FirstRequest > 0)
	positive("request_timeout", c.RequestTimeout > 0)
	positive("idle_timeout", c.Idle > 0)
	if c.MaxPerPeer < 0 || c.MaxPerPeer > c.MaxConnections {
		errs = append(errs, Wrong("listen.max_connections_per_peer", "%d is not between 0, which is half of max_connections, and max_connections, %d", c.MaxPerPeer, c.MaxConnections))
	}
	if c.MaxAge < 0 {
		errs = append(errs, Wrong("listen.max_age", "must not be negative; 0s is none"))
	}
	return errs
}

// CutUnix is the path of an address "unix:/path"; false for any other address.
func CutUnix(address string) (string, bool) {
	const scheme = "unix:"
	if len(address) < len(scheme) || address[:len(scheme)] != scheme {
		return "", false
	}
	return address[len(scheme):], true
}
