package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/upstream"
)

// Bounds of what is read.
const (
	page        = 250      // objects in one answer
	maxAnswer   = 32 << 20 // bytes of one
	maxTotal    = 96 << 20 // bytes of all
	maxObjects  = 50_000
	answerTime  = 30 * time.Second
	wholeTime   = 3 * time.Minute
	istioSystem = "istio-system"
)

// resource is a kind of objects that is read. Where the server has several versions the first of these is asked for.
type resource struct {
	group    string
	versions []string
	kind     string
	plural   string
}

// resources is all that is read.
func resources() []resource {
	const gateway, envoy, istio = "gateway.networking.k8s.io", "gateway.envoyproxy.io", "networking.istio.io"
	v1, alpha := []string{"v1"}, []string{"v1alpha1"}
	return []resource{
		{"security.istio.io", []string{"v1", "v1beta1"}, "AuthorizationPolicy", "authorizationpolicies"},
		{"security.istio.io", []string{"v1", "v1beta1"}, "PeerAuthentication", "peerauthentications"},
		{istio, []string{"v1", "v1beta1"}, "Sidecar", "sidecars"},
		{istio, []string{"v1", "v1beta1"}, "ServiceEntry", "serviceentries"},
		{istio, []string{"v1alpha3"}, "EnvoyFilter", "envoyfilters"},
		{gateway, []string{"v1", "v1beta1"}, "Gateway", "gateways"},
		{gateway, []string{"v1", "v1beta1"}, "HTTPRoute", "httproutes"},
		{gateway, v1, "GRPCRoute", "grpcroutes"},
		{gateway, []string{"v1", "v1alpha2"}, "TCPRoute", "tcproutes"},
		{gateway, []string{"v1", "v1alpha3", "v1alpha2"}, "TLSRoute", "tlsroutes"},
		{gateway, []string{"v1", "v1alpha3"}, "BackendTLSPolicy", "backendtlspolicies"},
		{envoy, alpha, "SecurityPolicy", "securitypolicies"},
		{envoy, alpha, "ClientTrafficPolicy", "clienttrafficpolicies"},
		{envoy, alpha, "BackendTrafficPolicy", "backendtrafficpolicies"},
		{envoy, alpha, "EnvoyPatchPolicy", "envoypatchpolicies"},
		{envoy, alpha, "EnvoyProxy", "envoyproxies"},
		{envoy, alpha, "Backend", "backends"},
		{"", v1, "Service", "services"},
		{"apps", v1, "Deployment", "deployments"},
		{"apps", v1, "StatefulSet", "statefulsets"},
		{"apps", v1, "DaemonSet", "daemonsets"},
	}
}

// Text is the objects of one kind, as a list in JSON.
type Text struct {
	Name string
	Text []byte
}

// errAbsent is for a kind that the server does not have.
var errAbsent = errors.New("no such kind")

// reader reads from one server.
type reader struct {
	*Config
	client  *http.Client
	total   int // bytes
	objects int
}

// Objects reads all objects of the cluster that the doctor looks at, and Istio's mesh configuration. Kinds that the server does not have are left out; one that
// may not be read is an error, since what was not looked at would pass for healthy.
func (c *Config) Objects(ctx context.Context) ([]Text, error) {
	ctx, cancel := context.WithTimeout(ctx, wholeTime)
	defer cancel()
	client, ours := upstream.Direct{Header: 64 << 10, Idle: 1}.New()
	defer ours.CloseIdleConnections()
	ours.TLSClientConfig = c.tls
	r := &reader{Config: c, client: client}
	var texts []Text
	for _, kind := range resources() {
		items, version, err := r.list(ctx, kind)
		if err != nil {
			return nil, fmt.Errorf("context %q: reading %s: %w", c.Context, kind.plural, err)
		}
		if texts, err = r.add(texts, kind.plural, version, kind.kind, items); err != nil {
			return nil, err
		}
	}
	meshes, err := r.meshes(ctx)
	if err != nil {
		return nil, fmt.Errorf("context %q: reading Istio's configuration in %s: %w", c.Context, istioSystem, err)
	}
	if texts, err = r.add(texts, "configmaps of "+istioSystem, "v1", "ConfigMap", meshes); err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("context %q: the cluster has nothing to look at: no objects of Istio, Envoy Gateway or the Gateway API, and no Services", c.Context)
	}
	return texts, nil
}

// list reads all objects of a kind, in the first of its versions that the server has.
func (r *reader) list(ctx context.Context, kind resource) (items []map[string]json.RawMessage, version string, err error) {
	for _, v := range kind.versions {
		prefix, version := "/apis/"+kind.group+"/"+v, kind.group+"/"+v
		if kind.group == "" {
			prefix, version = "/api/"+v, v
		}
		items, err := r.pages(ctx, prefix+"/"+kind.plural)
		if !errors.Is(err, errAbsent) {
			return items, version, err
		}
	}
	return nil, "", nil
}

// meshes are the ConfigMaps with a mesh's configuration: istio, and one for each revision beside it.
func (r *reader) meshes(ctx context.Context) ([]map[string]json.RawMessage, error) {
	items, err := r.pages(ctx, "/api/v1/namespaces/"+istioSystem+"/configmaps")
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	return slices.DeleteFunc(items, func(item map[string]json.RawMessage) bool {
		var meta struct{ Name string }
		_ = json.Unmarshal(item["metadata"], &meta)
		return meta.Name != "istio" && !strings.HasPrefix(meta.Name, "istio-") || !bytes.Contains(item["data"], []byte(`"mesh"`))
	}), err
}

// pages reads a list, page by page.
func (r *reader) pages(ctx context.Context, path string) (items []map[string]json.RawMessage, err error) {
	for next := ""; ; {
		query := url.Values{"limit": {strconv.Itoa(page)}}
		if next != "" {
			query.Set("continue", next)
		}
		text, err := r.get(ctx, path, query)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Metadata struct{ Continue string }
			Items    []map[string]json.RawMessage
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return nil, fmt.Errorf("the answer is not what an API server gives: %w", err)
		}
		items = append(items, answer.Items...)
		if r.total, r.objects = r.total+len(text), r.objects+len(answer.Items); r.total > maxTotal || r.objects > maxObjects {
			return nil, fmt.Errorf("more than %d objects or %d MiB: save those of some namespaces with kubectl get -o yaml", maxObjects, maxTotal>>20)
		}
		if next = answer.Metadata.Continue; next == "" {
			return items, nil
		}
	}
}

func (r *reader) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	at := *r.server.JoinPath(path)
	at.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if r.token != "" {
		request.Header.Set("Authorization", "Bearer "+r.token)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", upstream.Redacted(r.server), upstream.Truncate(err))
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return upstream.ReadBody(response, maxAnswer)
	case http.StatusNotFound:
		return nil, errAbsent
	case http.StatusUnauthorized:
		return nil, fmt.Errorf("%s does not know who asks (401): has the token or certificate ended?", upstream.Redacted(r.server))
	case http.StatusForbidden:
		return nil, fmt.Errorf("%s forbids it (403): the user needs the verb list for all namespaces", upstream.Redacted(r.server))
	}
	return nil, fmt.Errorf("%s answers %s", upstream.Redacted(r.server), response.Status)
}

// add makes a list of items. In an answer of the server's they have no kind, and a record of who set which field.
func (r *reader) add(texts []Text, name, version, kind string, items []map[string]json.RawMessage) ([]Text, error) {
	if len(items) == 0 {
		return texts, nil
	}
	for _, item := range items {
		var meta map[string]json.RawMessage
		if err := json.Unmarshal(item["metadata"], &meta); err != nil {
			return nil, fmt.Errorf("context %q: an object of %s has no metadata: %w", r.Context, name, err)
		}
		delete(meta, "managedFields")
		delete(item, "status")
		raw, err := json.Marshal(meta)
		if err != nil {
			return nil, err
		}
		item["metadata"], item["apiVersion"], item["kind"] = raw, json.RawMessage(strconv.Quote(version)), json.RawMessage(strconv.Quote(kind))
	}
	text, err := json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "List", "items": items}, "", " ")
	if err != nil {
		return nil, err
	}
	return append(texts, Text{r.Context + ": " + name, text}), nil
}
