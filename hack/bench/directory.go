package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"gatehouse/identity/apikey"
	"gatehouse/topaz/pb/common"
	"gatehouse/topaz/pb/writer"
)

// What is measured: two Gatehouses that differ in one line of the policy, which asks the directory whether the caller may read the order, through
// groups nested four deep. Both own a directory, and get each change.
const (
	directoryConfig = `state_dir: state
directory: {file: people, writable: true}
`
	directoryListen = `  directory: {grpc: ["unix:directory.sock"], keys: keys.yaml}
`
	directoryRego = `package envoy.authz

default allow := {"allowed": false}

allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if {
	input.attributes.request.http.method == "GET"
	input.route.name == "order"
	input.identity.subject != ""
	input.resource.id != ""
	QUESTION
}
`
	directoryQuestion = `ds.check({"object_type": "doc", "object_id": input.resource.id, "relation": "can_read", "subject_type": "user", "subject_id": input.identity.subject})`
	directoryManifest = `model: {version: 3}
types:
  user: {}
  group:
    relations: {member: user | group#member}
  doc:
    relations: {owner: user, viewer: user | group#member}
    permissions: {can_read: viewer | owner}
`

	directoryCallers = 1000 // each with a token, and a decision of its own
	directoryDocs    = 100
	changeEvery      = 10 * time.Millisecond
	directoryTarget  = 1.1
)

// measureDirectory compares a repeated decision that asks the directory with one that does not, while the directory stands still and while it
// changes a hundred times a second.
func (b bench) measureDirectory(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "gatehouse-directory-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	first, err := newFixture(filepath.Join(dir, "first"), shape{})
	if err != nil {
		return err
	}
	work, err := first.readers()
	if err != nil {
		return err
	}
	var servers [2]*server
	var writers [2]*directoryWriter
	for i, question := range []string{`input.resource.id != "-"`, directoryQuestion} {
		f, err := first.copyTo(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		key, err := f.addDirectory(question)
		if err != nil {
			return err
		}
		if servers[i], err = startGatehouse(ctx, b.gatehouse, f.dir); err != nil {
			return err
		}
		defer servers[i].stop()
		if writers[i], err = newDirectoryWriter(filepath.Join(f.dir, "directory.sock"), key); err != nil {
			return err
		}
		defer writers[i].conn.Close()
	}
	v := versions(b.gatehouse, "")
	fmt.Fprintf(out, "%s\nGo %s, gRPC %s, OPA %s. %d callers with a decision each, over TCP, %d at once; medians of %d interleaved runs of %s.\n\n",
		machine(), v["go"], v["grpc"], v["opa"], directoryCallers, b.callers, b.pairs, b.length)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "repeated decision, through the server\tmeasure\tasks ds.check\tdoes not\tratio\ttarget\t\tmemo hits\t")
	for _, rate := range []struct {
		name    string
		changes bool
	}{{"directory stands still", false}, {"100 changes a second", true}} {
		samples, err := b.directoryRuns(ctx, servers, writers, work, rate.changes)
		if err != nil {
			return err
		}
		for _, m := range []figure{cpu, p50, p99} {
			r := ratio(samples[1], samples[0], m.get)
			target, met := "", ""
			if m.name != p99.name {
				if target, met = fmt.Sprintf("<= %.1fx", directoryTarget), "met"; r > directoryTarget {
					met = "MISSED"
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%.2fx\t%s\t%s\t%s\t\n", rate.name, m.name, median(samples[1], m.get), median(samples[0], m.get), r, target, met,
				percent(share(samples[1], func(s sample) float64 { return s.memo })))
		}
	}
	return w.Flush()
}

// directoryRuns runs both servers in turn. The first run of each warms up.
func (b bench) directoryRuns(ctx context.Context, servers [2]*server, writers [2]*directoryWriter, work workload, changes bool) (samples [2][]sample, err error) {
	changing, stop := context.WithCancel(ctx)
	failed := make(chan error, 1)
	go func() { // goroutine: of a benchmark, which a panic may end
		if !changes {
			failed <- nil
			return
		}
		failed <- changeDirectories(changing, writers)
	}()
	for round := range b.pairs + 1 {
		for i, s := range servers {
			got, err := overGRPC(ctx, s, s.tcp, b.callers, b.length, work)
			if err != nil {
				stop()
				return samples, errors.Join(err, <-failed)
			}
			if round > 0 {
				samples[i] = append(samples[i], got)
			}
		}
	}
	stop()
	return samples, <-failed
}

// readers is a decision for each of many callers, over and over.
func (f *fixture) readers() (workload, error) {
	tokens, err := f.mint(0, directoryCallers)
	if err != nil {
		return nil, err
	}
	messages := make([][]byte, len(tokens))
	for i, token := range tokens {
		if messages[i], err = f.message(token, fmt.Sprintf("/orders/%d", i%directoryDocs)); err != nil {
			return nil, err
		}
	}
	return func() []byte { return messages[f.last.Add(7)%int64(len(messages))] }, nil
}

// addDirectory gives the fixture a directory of its callers, and a policy that has a question. It returns the key of who may write.
func (f *fixture) addDirectory(question string) (key string, err error) {
	k, err := apikey.New(apikey.Entry{Subject: "bench", Scopes: []string{"write"}})
	if err != nil {
		return "", err
	}
	var objects, relations strings.Builder
	group := func(i int) string { return fmt.Sprintf("group-%d", i) }
	const groups = directoryCallers / 10
	for i := range directoryCallers {
		fmt.Fprintf(&objects, "{\"type\": \"user\", \"id\": %q}\n", userName(i))
		fmt.Fprintf(&relations, "{\"object_type\": \"group\", \"object_id\": %q, \"relation\": \"member\", \"subject_type\": \"user\", \"subject_id\": %q}\n", group(i%groups), userName(i))
	}
	for i := range groups {
		fmt.Fprintf(&objects, "{\"type\": \"group\", \"id\": %q}\n", group(i))
		if i > 0 {
			fmt.Fprintf(&relations, "{\"object_type\": \"group\", \"object_id\": %q, \"relation\": \"member\", \"subject_type\": \"group\", \"subject_id\": %q, \"subject_relation\": \"member\"}\n",
				group(i/4), group(i))
		}
	}
	for i := range directoryDocs {
		fmt.Fprintf(&objects, "{\"type\": \"doc\", \"id\": \"%d\"}\n", i)
		fmt.Fprintf(&relations, "{\"object_type\": \"doc\", \"object_id\": \"%d\", \"relation\": \"viewer\", \"subject_type\": \"group\", \"subject_id\": %q, \"subject_relation\": \"member\"}\n", i, group(0))
	}
	text := strings.Replace(config, "identity:\n", directoryListen+"identity:\n", 1) + directoryConfig
	errs := []error{os.MkdirAll(filepath.Join(f.dir, "people"), 0o755)}
	for name, text := range map[string]string{"gatehouse.yaml": text, "keys.yaml": string(k.YAML()), "policy/policy.rego": strings.Replace(directoryRego, "QUESTION", question, 1),
		"people/manifest.yaml": directoryManifest, "people/objects.jsonl": objects.String(), "people/relations.jsonl": relations.String()} {
		errs = append(errs, os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600))
	}
	return k.Reveal(), errors.Join(errs...)
}

// directoryWriter changes a server's directory.
type directoryWriter struct {
	conn   *grpc.ClientConn
	key    string
	client writer.WriterClient
}

func newDirectoryWriter(socket, key string) (*directoryWriter, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &directoryWriter{conn, key, writer.NewWriterClient(conn)}, nil
}

// change gives a caller an order of its own, or takes it away.
func (d *directoryWriter) change(ctx context.Context, n int) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "basic "+d.key)
	object, subject := fmt.Sprint(n%directoryDocs), userName(n%directoryCallers)
	var err error
	if n/directoryCallers%2 == 0 {
		_, err = d.client.SetRelation(ctx, &writer.SetRelationRequest{Relation: &common.Relation{ObjectType: "doc", ObjectId: object, Relation: "owner", SubjectType: "user", SubjectId: subject}})
	} else {
		_, err = d.client.DeleteRelation(ctx, &writer.DeleteRelationRequest{ObjectType: "doc", ObjectId: object, Relation: "owner", SubjectType: "user", SubjectId: subject})
	}
	return err
}

// changeDirectories changes all directories alike, a hundred times a second, until ctx ends.
func changeDirectories(ctx context.Context, writers [2]*directoryWriter) error {
	tick := time.NewTicker(changeEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, w := range writers {
			if err := w.change(ctx, n); err != nil && ctx.Err() == nil {
				return fmt.Errorf("changing the directory: %w", err)
			}
		}
	}
}
