// Package cli is what the commands of gatehouse control do as clients of a control plane. Printing is for the commands.
//
// It may import directory and its formats, control/api and control/trust.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse/control/api"
	"gatehouse/control/trust"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/terminal"
)

// Access says where control is, who it is, and who asks.
type Access struct{ URL, CA, Pin, Token string }

// Client asks a control plane.
type Client struct {
	Directory api.DirectoryServiceClient
	Admin     api.AdminServiceClient

	transport *http.Transport
}

// Connect makes a client. It asks nothing yet.
func Connect(a Access) (*Client, error) {
	u, err := url.Parse(a.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the URL of control is https://host:port, not %q", a.URL)
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
	base, with := strings.TrimSuffix(a.URL, "/"), connect.WithInterceptors(bearer(a.Token))
	c.Directory, c.Admin = api.NewDirectoryServiceClient(h, base, with), api.NewAdminServiceClient(h, base, with)
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// bearer adds a token to each request.
type bearer string

// WrapUnary implements connect.Interceptor.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		c := next(ctx, spec)
		c.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return c
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
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

// EdgeRows are the table of edges.
func EdgeRows(list []*api.Edge, now time.Time) [][]string {
	rows := [][]string{{"EDGE", "NAME", "ENVIRONMENT", "VERSION", "STATE", "REVISION", "BEHIND", "LAST SEEN", "DEGRADED"}}
	for _, e := range list {
		state := "away"
		switch {
		case e.GetRevokedAt() != nil:
			state = "revoked"
		case e.GetError() != "":
			state = "stuck"
		case e.GetConnected() && e.GetBehind() == 0:
			state = "current"
		case e.GetConnected():
			state = "behind"
		}
		degraded := strings.Join(e.GetDegraded(), "; ")
		if e.GetError() != "" {
			degraded = e.GetError()
		}
		if degraded == "" {
			degraded = "-"
		}
		rows = append(rows, []string{e.GetId(), e.GetName(), e.GetEnvironment(), e.GetVersion(), state, strconv.FormatUint(e.GetRevision(), 10), strconv.FormatUint(e.GetBehind(), 10),
			ago(e.GetLastSeen(), now), degraded})
	}
	return rows
}

// TokenRows are the table of tokens.
func TokenRows(list []*api.Token, now time.Time) [][]string {
	rows := [][]string{{"TOKEN", "NAME", "SCOPES", "STATE", "MADE BY"}}
	for _, t := range list {
		state := "valid until " + t.GetExpiresAt().AsTime().Format("2006-01-02 15:04")
		switch {
		case t.GetRevokedAt() != nil:
			state = "revoked"
		case now.After(t.GetExpiresAt().AsTime()):
			state = "expired"
		}
		rows = append(rows, []string{t.GetId(), t.GetName(), strings.Join(t.GetScopes(), " "), state, t.GetCreatedBy()})
	}
	return rows
}

func ago(at *timestamppb.Timestamp, now time.Time) string {
	if at == nil {
		return "never"
	}
	return terminal.Duration(max(0, now.Sub(at.AsTime()).Truncate(time.Second)).Nanoseconds()) + " ago"
}

// JSON prints the fields of messages as one object.
func JSON(w io.Writer, messages ...proto.Message) error {
	all := map[string]json.RawMessage{}
	for _, m := range messages {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &all); err != nil {
			return err
		}
	}
	return terminal.JSON(w).Encode(all)
}
