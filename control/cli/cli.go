// Package cli is what the commands of gatehouse control do as clients of a control plane, and the tables that they print.
//
// It may import directory and its formats, control/api and control/trust.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/control/trust"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/terminal"
	"gatehouse/watch"
)

// Access says where control is, who it is, and who asks.
type Access struct {
	URL       string
	CA, Pin   string // one of them
	Folder    string // control's own, instead of them
	Token     string
	TokenFile string // instead of Token
}

// FromEnvironment is what the variables GATEHOUSE_CONTROL_URL, _CA, _PIN and _TOKEN say.
func FromEnvironment() Access {
	a := Access{URL: os.Getenv("GATEHOUSE_CONTROL_URL"), CA: os.Getenv("GATEHOUSE_CONTROL_CA"), Pin: os.Getenv("GATEHOUSE_CONTROL_PIN"), Token: os.Getenv("GATEHOUSE_CONTROL_TOKEN")}
	if a.URL == "" {
		a.URL = "https://127.0.0.1:8443"
	}
	return a
}

// The file of a token, and that of the authority in control's folder.
const (
	maxToken      = 4 << 10
	authorityFile = "ca.pem"
)

// Client asks a control plane.
type Client struct {
	Directory api.DirectoryServiceClient
	Admin     api.AdminServiceClient
	Policy    api.PolicyServiceClient
	Trail     api.DecisionServiceClient

	transport *http.Transport
}

// Connect makes a client. It asks nothing yet.
func Connect(a Access) (*Client, error) {
	u, err := url.Parse(a.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the URL of control is https://host:port, not %q", a.URL)
	}
	if a.TokenFile != "" {
		text, err := watch.ReadFile(a.TokenFile, maxToken)
		if err != nil {
			return nil, err
		}
		a.Token = strings.TrimSpace(string(text))
	}
	if a.Folder != "" && a.CA == "" && a.Pin == "" {
		a.CA = filepath.Join(a.Folder, authorityFile)
	}
	if a.Token == "" {
		return nil, errors.New("no token: set GATEHOUSE_CONTROL_TOKEN, or --token-file; gatehouse control serve printed the first one when it started")
	}
	secure, err := trust.Control(a.CA, a.Pin, u.Hostname(), time.Now)
	if err != nil {
		return nil, fmt.Errorf("%w: --ca FILE (ca.pem in control's folder), or --pin", err)
	}
	c := &Client{transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, ForceAttemptHTTP2: true, TLSHandshakeTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext}}
	h := &http.Client{Transport: c.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	base, with := strings.TrimSuffix(a.URL, "/"), connect.WithInterceptors(Bearer(a.Token))
	c.Directory, c.Admin = api.NewDirectoryServiceClient(h, base, with), api.NewAdminServiceClient(h, base, with)
	c.Policy = api.NewPolicyServiceClient(h, base, with)
	c.Trail = api.NewDecisionServiceClient(h, base, with)
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Bearer is an interceptor that adds a token to each request of a client.
type Bearer string

// WrapUnary implements connect.Interceptor.
func (b Bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (b Bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		c := next(ctx, spec)
		c.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return c
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (b Bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// Ask makes a call. Its error is control's text alone.
func Ask[Q, A any](ctx context.Context, call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) (*A, error) {
	out, err := call(ctx, connect.NewRequest(q))
	if err != nil {
		return nil, plain(err)
	}
	return out.Msg, nil
}

// Done is Ask of a call whose answer says nothing.
func Done[Q, A any](ctx context.Context, call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) error {
	_, err := Ask(ctx, call, q)
	return err
}

func plain(err error) error {
	about, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return err
	}
	if about.Code() == connect.CodeUnavailable {
		return fmt.Errorf("control: %s; is it running, and the address right?", about.Message())
	}
	return fmt.Errorf("control: %s", about.Message())
}

// Import is what is imported, and how.
type Import struct {
	Environment string
	Source      string
	TakeOver    bool
	Manifest    bool // set the manifest first
	Force       bool // delete what the manifest does not allow
}

// batch is how many objects and relations go into one message.
const batch = 1000

// Import sends a directory: its manifest where that is asked for, then all objects, then all relations. What is at
// control and not in it stays.
func (c *Client) Import(ctx context.Context, s *directory.Snapshot, with Import, progress func(objects, relations int)) (*api.ImportResponse, error) {
	options := &api.WriteOptions{Source: with.Source, TakeOver: with.TakeOver}
	if with.Manifest {
		out, err := Ask(ctx, c.Directory.SetManifest, &api.SetManifestRequest{Environment: with.Environment, Manifest: string(s.Manifest().Text()), Force: with.Force, Options: options})
		if err != nil {
			return nil, err
		}
		if out.GetRevision() == 0 {
			return nil, fmt.Errorf("its manifest does not allow %d objects and relations that control has, such as %s\n--force deletes them, --keep-manifest leaves control's manifest as it is",
				out.GetOrphansTotal(), strings.Join(out.GetOrphans()[:min(3, len(out.GetOrphans()))], ", "))
		}
	}
	stream := c.Directory.Import(ctx)
	m := &api.ImportRequest{Environment: with.Environment, Options: options}
	objects, relations := 0, 0
	var failed error
	send := func() bool {
		if failed = stream.Send(m); failed != nil {
			return false
		}
		objects, relations = objects+len(m.GetObjects()), relations+len(m.GetRelations())
		progress(objects, relations)
		m = &api.ImportRequest{}
		return true
	}
	for o := range s.Objects("") {
		out := &api.Object{Type: o.Type, Id: o.ID, DisplayName: o.DisplayName}
		if len(o.Properties) > 0 {
			out.Properties = &structpb.Struct{}
			if err := out.Properties.UnmarshalJSON(o.Properties); err != nil {
				return nil, fmt.Errorf("%s: its properties: %w", o, err)
			}
		}
		if m.Objects = append(m.Objects, out); len(m.GetObjects()) == batch && !send() {
			break
		}
	}
	if failed == nil && len(m.GetObjects()) > 0 {
		send()
	}
	if failed == nil {
		for r := range s.Relations(directory.RelationFilter{}, time.Now()) {
			if m.Relations = append(m.Relations, Relation(r)); len(m.GetRelations()) == batch && !send() {
				break
			}
		}
	}
	if failed == nil && (len(m.GetRelations()) > 0 || objects == 0) {
		send()
	}
	out, err := stream.CloseAndReceive() // also where sending failed: it has the reason
	if err != nil {
		return nil, plain(err)
	}
	return out.Msg, nil
}

// Relation is a relation as the API has it.
func Relation(r directory.Relation) *api.Relation {
	out := &api.Relation{ObjectType: r.Object.Type, ObjectId: r.Object.ID, Relation: r.Relation, SubjectType: r.Subject.Type, SubjectId: r.Subject.ID, SubjectRelation: r.SubjectRelation}
	if !r.Expires.IsZero() {
		out.ExpiresAt = timestamppb.New(r.Expires)
	}
	return out
}

// Parse reads objects (user:alice) and relations (group:eng#member@user:alice). A relation expires at expires, if it is
// not zero.
func Parse(list []string, expires time.Time) (objects []directory.Ref, relations []*api.Relation, err error) {
	for _, text := range list {
		if !strings.Contains(text, "#") {
			ref, err := format.ParseRef(text)
			if err != nil {
				return nil, nil, err
			}
			objects = append(objects, ref)
			continue
		}
		r, err := format.ParseRelation(text)
		if err != nil {
			return nil, nil, err
		}
		r.Expires = expires
		relations = append(relations, Relation(r))
	}
	return objects, relations, nil
}

// Set adds objects that are missing, and relations. Objects that are there keep their names and properties.
func (c *Client) Set(ctx context.Context, environment string, objects []directory.Ref, relations []*api.Relation) (revision uint64, err error) {
	var missing []*api.Object
	for _, o := range objects {
		have, err := Ask(ctx, c.Directory.ListObjects, &api.ListObjectsRequest{Environment: environment, Type: o.Type, Id: o.ID})
		if err != nil {
			return 0, err
		}
		if revision = have.GetRevision(); len(have.GetObjects()) == 0 {
			missing = append(missing, &api.Object{Type: o.Type, Id: o.ID})
		}
	}
	if len(missing) > 0 {
		out, err := Ask(ctx, c.Directory.SetObjects, &api.SetObjectsRequest{Environment: environment, Objects: missing})
		if err != nil {
			return 0, err
		}
		revision = out.GetRevision()
	}
	if len(relations) > 0 {
		out, err := Ask(ctx, c.Directory.SetRelations, &api.SetRelationsRequest{Environment: environment, Relations: relations})
		if err != nil {
			return 0, err
		}
		revision = out.GetRevision()
	}
	return revision, nil
}

// Delete deletes relations, and then objects.
func (c *Client) Delete(ctx context.Context, environment string, objects []directory.Ref, relations []*api.Relation) (revision uint64, err error) {
	if len(relations) > 0 {
		out, err := Ask(ctx, c.Directory.DeleteRelations, &api.DeleteRelationsRequest{Environment: environment, Relations: relations})
		if err != nil {
			return 0, err
		}
		revision = out.GetRevision()
	}
	if len(objects) > 0 {
		q := &api.DeleteObjectsRequest{Environment: environment}
		for _, o := range objects {
			q.Objects = append(q.Objects, &api.Ref{Type: o.Type, Id: o.ID})
		}
		out, err := Ask(ctx, c.Directory.DeleteObjects, q)
		if err != nil {
			return 0, err
		}
		revision = out.GetRevision()
	}
	return revision, nil
}

// ImportFile is Import of the directory in a folder or file. It prints how much that was, and on notes how far it is.
func (c *Client) ImportFile(ctx context.Context, w, notes io.Writer, path string, with Import, asJSON bool) error {
	s, err := format.Load(ctx, path, format.Options{})
	if err != nil {
		return err
	}
	total, sent := s.Stats(), atomic.Int64{}
	done := terminal.Progress(notes, func(took time.Duration) string {
		return terminal.Bar(float64(sent.Load())/float64(total.Objects+total.Relations), took, "importing: "+terminal.Thousands(sent.Load())+" objects and relations")
	})
	out, err := c.Import(ctx, s, with, func(objects, relations int) { sent.Store(int64(objects + relations)) })
	done()
	if err != nil {
		return err
	}
	if asJSON {
		return terminal.JSON(w).Encode(map[string]any{"environment": with.Environment, "objects": out.GetObjects(), "relations": out.GetRelations(), "revision": out.GetRevision()})
	}
	_, err = fmt.Fprintf(w, "%s: %s and %s, revision %d\n", with.Environment, terminal.Count(out.GetObjects(), "object"), terminal.Count(out.GetRelations(), "relation"), out.GetRevision())
	return err
}

// Written is what Write writes.
type Written struct {
	Environment string
	What        []string // objects and relations as text
	Delete      bool
	After       time.Duration // when the relations end; 0: never
	Wait        time.Duration // for the edges; 0: not
	JSON        bool          // print one object
}

// Write writes objects and relations and prints the revision, and on notes what was to be deleted and is not there. applied is false where it
// waited for edges in vain.
func (c *Client) Write(ctx context.Context, w, notes io.Writer, with Written) (applied bool, err error) {
	var ends time.Time
	if with.After > 0 {
		ends = time.Now().Add(with.After).Truncate(time.Second)
	}
	objects, relations, err := Parse(with.What, ends)
	if err != nil {
		return false, err
	}
	do := c.Set
	if with.Delete {
		do = c.Delete
		if err := c.tellAbsent(ctx, notes, with, objects, relations); err != nil {
			return false, err
		}
	}
	revision, err := do(ctx, with.Environment, objects, relations)
	if err != nil {
		return false, err
	}
	if !with.JSON {
		fmt.Fprintf(w, "%s is at revision %d\n", with.Environment, revision)
	}
	var out *api.WaitAppliedResponse
	if with.Wait > 0 {
		if out, err = Ask(ctx, c.Directory.WaitApplied, &api.WaitAppliedRequest{Environment: with.Environment, Revision: revision, TimeoutMs: int32(min(with.Wait, time.Minute).Milliseconds())}); err != nil {
			return false, err
		}
	}
	return out == nil || out.GetApplied(), with.print(w, revision, out)
}

// tellAbsent says on w what is to be deleted and is not there: a name may be misspelt.
func (c *Client) tellAbsent(ctx context.Context, w io.Writer, with Written, objects []directory.Ref, relations []*api.Relation) error {
	for _, o := range objects {
		have, err := Ask(ctx, c.Directory.ListObjects, &api.ListObjectsRequest{Environment: with.Environment, Type: o.Type, Id: o.ID})
		if err != nil {
			return err
		}
		if len(have.GetObjects()) == 0 {
			fmt.Fprintf(w, "notice: %s is not there\n", terminal.Visible(o.String()))
		}
	}
	for _, r := range relations {
		q := &api.ListRelationsRequest{Environment: with.Environment, ObjectType: r.GetObjectType(), ObjectId: r.GetObjectId(), Relation: r.GetRelation(),
			SubjectType: r.GetSubjectType(), SubjectId: r.GetSubjectId(), PageSize: 1000}
		have, err := Ask(ctx, c.Directory.ListRelations, q)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(have.GetRelations(), func(other *api.Relation) bool { return other.GetSubjectRelation() == r.GetSubjectRelation() }) {
			fmt.Fprintf(w, "notice: %s is not there\n", terminal.Visible(text(r)))
		}
	}
	return nil
}

// text is a relation as people write it.
func text(r *api.Relation) string {
	out := r.GetObjectType() + ":" + r.GetObjectId() + "#" + r.GetRelation() + "@" + r.GetSubjectType() + ":" + r.GetSubjectId()
	if r.GetSubjectRelation() != "" {
		out += "#" + r.GetSubjectRelation()
	}
	return out
}

// EdgeID is the id of the edge that is named: by its id, or by a name that one edge alone has which is not revoked.
func (c *Client) EdgeID(ctx context.Context, name string) (string, error) {
	out, err := Ask(ctx, c.Admin.ListEdges, &api.ListEdgesRequest{})
	if err != nil {
		return "", err
	}
	var ids []string
	for _, e := range out.GetEdges() {
		switch {
		case e.GetId() == name:
			return name, nil
		case e.GetName() == name && e.GetRevokedAt() == nil:
			ids = append(ids, e.GetId())
		}
	}
	switch len(ids) {
	case 0:
		return name, nil // control says that there is none
	case 1:
		return ids[0], nil
	}
	return "", fmt.Errorf("%d edges are called %s: give the id of one: %s", len(ids), terminal.Visible(name), strings.Join(ids[:min(len(ids), 20)], ", "))
}
