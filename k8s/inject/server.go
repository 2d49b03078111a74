package inject

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/netutil"

	"gatehouse/panics"
	"gatehouse/watch"
)

// Options are what the process that injects is made of.
type Options struct {
	File     string // injector.yaml; read at the start, and again when it changes
	Sidecar  string // in the place of the file's; "": the file says it
	Log      *zap.Logger
	Registry *prometheus.Registry // nil: one of its own, with the process's metrics
	Now      func() time.Time     // nil: time.Now
}

// Injector is the webhook.
type Injector struct {
	options  Options
	start    *Config // as of the start: addresses, names and certificates never change
	log      *zap.Logger
	now      func() time.Time
	metrics  metrics
	slots    chan struct{} // one for each review that is looked at
	webhook  net.Listener
	admin    net.Listener
	draining atomic.Bool

	settings     atomic.Pointer[settings] // what pods are judged by; stored under changing
	certificates atomic.Pointer[certificates]
	problem      atomic.Pointer[string] // of the last round of renew; nil before the first
	kindKnown    atomic.Bool
	published    atomic.Bool // the API server has our authority
	changing     sync.Mutex
}

// NewLog writes lines of JSON.
func NewLog(w io.Writer) *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(zapcore.AddSync(w)), zap.InfoLevel))
}

// Limits of the webhook's connections. The API server has one or two; the port is open to the cluster.
const (
	maxConnections = 64
	maxStreams     = 64 // of each
	headerWait     = 5 * time.Second
	requestWait    = 10 * time.Second // the API server waits for less
	idleWait       = 2 * time.Minute
	shutdownWait   = 10 * time.Second
)

// New reads the settings and opens the listeners. It starts nothing else.
func New(o Options) (*Injector, error) {
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
		o.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	c, err := o.read()
	if err != nil {
		return nil, err
	}
	if _, err := c.API.server(); err != nil {
		return nil, err
	}
	i := &Injector{options: o, start: c, log: o.Log, now: o.Now, slots: make(chan struct{}, c.MaxRequests), metrics: newMetrics(o.Registry)}
	panics.SetReporter(func(e panics.Event) {
		o.Log.Error("recovered from a panic", zap.String("where", e.Where), zap.Any("panic", e.Value), zap.Uint64("not_said_before", e.More), zap.ByteString("stack", e.Stack))
	})
	if i.now == nil {
		i.now = time.Now
	}
	o.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gatehouse_inject_ready", Help: "1 where the API server can use this injector."}, func() float64 {
		if i.ready() != nil {
			return 0
		}
		return 1
	}))
	i.settings.Store(&settings{Config: c, native: c.Sidecar == native})
	if i.webhook, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if i.admin, err = net.Listen("tcp", c.Admin); err != nil {
		i.webhook.Close()
		return nil, fmt.Errorf("admin: %w", err)
	}
	return i, nil
}

func (o Options) read() (*Config, error) {
	c, err := Read(o.File)
	if err != nil {
		return nil, err
	}
	if o.Sidecar != "" {
		c.Sidecar = o.Sidecar
		err = c.validate()
	}
	return c, err
}

// Addresses are where the webhook and the admin port listen.
func (i *Injector) Addresses() (webhook, admin net.Addr) { return i.webhook.Addr(), i.admin.Addr() }

// Run serves until ctx ends, and for the drain delay after that: the API server has to hear first that this replica leaves.
func (i *Injector) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	looking, stop := context.WithCancel(ctx)
	defer stop()
	wait.Go(func() { panics.Loop(looking, "renewing the injector's certificates", i.renew) })
	wait.Go(func() {
		panics.Loop(looking, "watching the injector's settings", func(ctx context.Context) {
			watch.Files(ctx, watch.Config{Targets: watch.Paths(i.options.File), Logger: i.log}, i.reread)
		})
	})
	quiet, err := zap.NewStdLogAt(i.log, zap.DebugLevel)
	if err != nil {
		return err
	}
	webhook := &http.Server{Handler: i.handler(), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 1 << 18}, ErrorLog: quiet, ReadHeaderTimeout: headerWait, ReadTimeout: requestWait, WriteTimeout: requestWait, IdleTimeout: idleWait, MaxHeaderBytes: 16 << 10}
	admin := &http.Server{Handler: i.adminHandler(), ErrorLog: quiet, ReadHeaderTimeout: headerWait, ReadTimeout: requestWait, WriteTimeout: requestWait, IdleTimeout: idleWait, MaxHeaderBytes: 16 << 10}
	secure := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := i.certificates.Load(); c != nil {
			return c.serving, nil
		}
		return nil, errors.New("there is no certificate yet")
	}}
	webhook.TLSConfig = secure
	ended := make(chan error, 2)
	// goroutine: net/http recovers its own
	wait.Go(func() { ended <- webhook.ServeTLS(netutil.LimitListener(i.webhook, maxConnections), "", "") })
	// goroutine: likewise
	wait.Go(func() { ended <- admin.Serve(netutil.LimitListener(i.admin, maxConnections)) })
	i.log.Info("injecting", zap.Stringer("listen", i.webhook.Addr()), zap.Stringer("admin", i.admin.Addr()), zap.String("namespace", i.start.Namespace), zap.String("sidecar", i.start.Sidecar))
	select {
	case err = <-ended:
	case <-ctx.Done():
		i.draining.Store(true)
		i.log.Info("leaving", zap.Duration("after", i.start.DrainDelay))
		select {
		case <-time.After(i.start.DrainDelay):
		case err = <-ended:
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
	defer cancel()
	if errors.Is(webhook.Shutdown(last), context.DeadlineExceeded) {
		webhook.Close()
	}
	admin.Close()
	return err
}

// reread takes the file's settings where they are good; the last good ones stay otherwise.
func (i *Injector) reread() {
	c, err := i.options.read()
	if err != nil {
		i.metrics.reloads.WithLabelValues("failed").Inc()
		i.log.Error("the settings changed and cannot be used, the old ones stay", zap.Error(err))
		return
	}
	i.changing.Lock()
	defer i.changing.Unlock()
	old := i.settings.Load()
	i.settings.Store(&settings{Config: c, native: c.Sidecar == native || c.Sidecar == auto && old.native})
	i.metrics.reloads.WithLabelValues("used").Inc()
	s := i.start
	if c.Listen != s.Listen || c.Admin != s.Admin || c.Namespace != s.Namespace || c.Secret != s.Secret || c.Webhook != s.Webhook || c.API != s.API ||
		c.Certificates != s.Certificates || c.MaxRequests != s.MaxRequests || !slices.Equal(c.Names, s.Names) {
		i.log.Warn("listen, admin, namespace, names, secret, webhook, api, certificates and max_requests are read at the start alone: restart the injector for them")
	}
}

// choose says what sidecars are.
func (i *Injector) choose(nativeSidecars bool) {
	i.changing.Lock()
	defer i.changing.Unlock()
	if old := i.settings.Load(); old.native != nativeSidecars {
		i.settings.Store(&settings{Config: old.Config, native: nativeSidecars})
	}
	i.kindKnown.Store(true)
}

// ready says why the API server should not ask this replica, nil where it should.
func (i *Injector) ready() error {
	c := i.certificates.Load()
	switch {
	case i.draining.Load():
		return errors.New("leaving")
	case !i.kindKnown.Load():
		return i.because("the API server's version is not known")
	case c == nil:
		return i.because("there is no certificate")
	case !i.now().Before(c.serving.Leaf.NotAfter):
		return i.because("the certificate has ended")
	case !i.published.Load():
		return i.because("the webhook configuration does not have our authority")
	}
	return nil
}

func (i *Injector) because(text string) error {
	if p := i.problem.Load(); p != nil && *p != "" {
		text += ": " + *p
	}
	return errors.New(text)
}

func (i *Injector) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := i.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(i.options.Registry, promhttp.HandlerOpts{}))
	return mux
}
