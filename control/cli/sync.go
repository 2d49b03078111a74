package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/control/api"
	"gatehouse/directory"
	"gatehouse/directory/format"
	"gatehouse/terminal"
)

// Sync says how what a source owns at control is made the same as its files.
type Sync struct {
	Environment string
	Source      string
	DryRun      bool
	Delete      int // per cent of the source's objects, or of its relations, that one run may delete
	JSON        bool
}

// smallSource is how much may always be deleted: a share of little says nothing.
const smallSource = 10

// difference is what a sync changes.
type difference struct {
	objects         []*api.Object   // that are new or other than they were
	relations       []*api.Relation // likewise
	goneObjects     []*api.Ref
	goneRelations   []*api.Relation
	owned, ownedRel int // what the source has at control now
}

func (d *difference) empty() bool {
	return len(d.objects)+len(d.relations)+len(d.goneObjects)+len(d.goneRelations) == 0
}

// refused is why a difference may not be made; "": it may.
func (d *difference) refused(percent int) string {
	for _, one := range []struct {
		what        string
		gone, owned int
	}{{"objects", len(d.goneObjects), d.owned}, {"relations", len(d.goneRelations), d.ownedRel}} {
		if one.gone > smallSource && one.gone*100 > percent*one.owned {
			return fmt.Sprintf("this would delete %d of the source's %d %s, %d %%, and at most %d %% are allowed\nis the file whole? then --max-delete %d makes it", one.gone, one.owned, one.what, one.gone*100/one.owned, percent, (one.gone*100+one.owned-1)/one.owned)
		}
	}
	return ""
}

// SyncFile makes what a source owns at control the same as a folder or file: what is new or changed there is written, what
// is not there any more is deleted. What other sources own stays, and is an error where the file has it too. It prints what
// it did, or with DryRun would do.
func (c *Client) SyncFile(ctx context.Context, w io.Writer, path string, with Sync) error {
	s, err := format.Load(ctx, path, format.Options{})
	if err != nil {
		return err
	}
	d, err := c.difference(ctx, s, with)
	if err != nil {
		return err
	}
	refused, revision := d.refused(with.Delete), uint64(0)
	if refused != "" && !with.DryRun {
		return fmt.Errorf("%s: nothing was changed: %s", with.Environment, refused)
	}
	if !with.DryRun {
		if revision, err = c.make(ctx, d, with); err != nil {
			return err
		}
	}
	if with.JSON {
		out := map[string]any{"environment": with.Environment, "source": with.Source, "dry_run": with.DryRun, "set_objects": len(d.objects), "set_relations": len(d.relations),
			"deleted_objects": len(d.goneObjects), "deleted_relations": len(d.goneRelations)}
		if revision != 0 {
			out["revision"] = revision
		}
		if refused != "" {
			out["refused"] = refused
		}
		return terminal.JSON(w).Encode(out)
	}
	return d.print(w, with, refused)
}

func (d *difference) print(w io.Writer, with Sync, refused string) error {
	if d.empty() {
		_, err := fmt.Fprintf(w, "%s: source %s is as the file is\n", with.Environment, terminal.Visible(with.Source))
		return err
	}
	verb := "made"
	if with.DryRun {
		verb = "would be made"
	}
	if _, err := fmt.Fprintf(w, "%s: source %s: %s: %s and %s set, %s and %s deleted\n", with.Environment, terminal.Visible(with.Source), verb, terminal.Count(int64(len(d.objects)), "object"),
		terminal.Count(int64(len(d.relations)), "relation"), terminal.Count(int64(len(d.goneObjects)), "object"), terminal.Count(int64(len(d.goneRelations)), "relation")); err != nil {
		return err
	}
	if !with.DryRun {
		return nil
	}
	const most = 20
	var lines []string
	for _, o := range d.goneObjects {
		lines = append(lines, "- "+o.GetType()+":"+o.GetId())
	}
	for _, r := range d.goneRelations {
		lines = append(lines, "- "+text(r))
	}
	for _, o := range d.objects {
		lines = append(lines, "+ "+o.GetType()+":"+o.GetId())
	}
	for _, r := range d.relations {
		lines = append(lines, "+ "+text(r))
	}
	for _, line := range lines[:min(most, len(lines))] {
		fmt.Fprintln(w, terminal.Visible(line))
	}
	if len(lines) > most {
		fmt.Fprintf(w, "and %d more\n", len(lines)-most)
	}
	if refused != "" {
		fmt.Fprintln(w, "it would be refused: "+refused)
	}
	return nil
}

// difference compares files with what a source owns.
func (c *Client) difference(ctx context.Context, s *directory.Snapshot, with Sync) (*difference, error) {
	d := &difference{}
	have := map[directory.Ref]*api.Object{}
	for token := ""; ; {
		page, err := Ask(ctx, c.Directory.ListObjects, &api.ListObjectsRequest{Environment: with.Environment, PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, o := range page.GetObjects() {
			if o.GetSource() != with.Source {
				continue
			}
			ref := directory.Ref{Type: o.GetType(), ID: o.GetId()}
			have[ref] = o
			if _, stays := s.Object(ref); !stays {
				d.goneObjects = append(d.goneObjects, &api.Ref{Type: ref.Type, Id: ref.ID, Etag: o.GetEtag()})
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	d.owned = len(have)
	for o := range s.Objects("") {
		next := &api.Object{Type: o.Type, Id: o.ID, DisplayName: o.DisplayName}
		if len(o.Properties) > 0 {
			next.Properties = &structpb.Struct{}
			if err := next.Properties.UnmarshalJSON(o.Properties); err != nil {
				return nil, fmt.Errorf("%s: its properties: %w", o, err)
			}
		}
		was := have[o.Ref]
		if was == nil || was.GetDisplayName() != next.GetDisplayName() || !sameProperties(was.GetProperties(), next.GetProperties()) {
			d.objects = append(d.objects, next)
		}
	}
	return d, c.compareRelations(ctx, d, s, with)
}

// sameProperties compares properties, but for what an identity provider says: that is not the file's.
func sameProperties(was, next *structpb.Struct) bool {
	strip := func(s *structpb.Struct) *structpb.Struct {
		out, _ := proto.Clone(s).(*structpb.Struct)
		delete(out.GetFields(), directory.ProviderPart)
		return out
	}
	was, next = strip(was), strip(next)
	return len(was.GetFields())+len(next.GetFields()) == 0 || proto.Equal(was, next)
}

func (c *Client) compareRelations(ctx context.Context, d *difference, s *directory.Snapshot, with Sync) error {
	now, have := time.Now(), map[string]bool{}
	for token := ""; ; {
		page, err := Ask(ctx, c.Directory.ListRelations, &api.ListRelationsRequest{Environment: with.Environment, PageSize: 1000, PageToken: token})
		if err != nil {
			return err
		}
		for _, r := range page.GetRelations() {
			if r.GetSource() != with.Source {
				continue
			}
			d.ownedRel++
			of := directory.Relation{Object: directory.Ref{Type: r.GetObjectType(), ID: r.GetObjectId()}, Relation: r.GetRelation(), Subject: directory.Ref{Type: r.GetSubjectType(), ID: r.GetSubjectId()}, SubjectRelation: r.GetSubjectRelation()}
			next, stays := s.Relation(of, now)
			switch {
			case !stays:
				d.goneRelations = append(d.goneRelations, r)
			case next.Expires.IsZero() == (r.GetExpiresAt() == nil) && (next.Expires.IsZero() || next.Expires.Equal(r.GetExpiresAt().AsTime())):
				have[text(r)] = true
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	for r := range s.Relations(directory.RelationFilter{}, now) {
		if next := Relation(r); !have[text(next)] {
			d.relations = append(d.relations, next)
		}
	}
	return nil
}

// make writes a difference: first what takes rights away, then what is new, then what is gone. Each write is whole; one that
// is refused ends it, and the next run goes on.
func (c *Client) make(ctx context.Context, d *difference, with Sync) (revision uint64, err error) {
	options := &api.WriteOptions{Source: with.Source}
	wrote := func(out *api.WriteResponse, err error) error { revision = max(revision, out.GetRevision()); return err }
	for part := range slices.Chunk(d.goneRelations, batch) {
		for _, r := range part {
			r.ExpiresAt = nil
		}
		if err := wrote(Ask(ctx, c.Directory.DeleteRelations, &api.DeleteRelationsRequest{Environment: with.Environment, Relations: part, Options: options})); err != nil {
			return 0, err
		}
	}
	for part := range slices.Chunk(d.objects, batch) {
		if err := wrote(Ask(ctx, c.Directory.SetObjects, &api.SetObjectsRequest{Environment: with.Environment, Objects: part, Options: options})); err != nil {
			return 0, err
		}
	}
	for part := range slices.Chunk(d.relations, batch) {
		if err := wrote(Ask(ctx, c.Directory.SetRelations, &api.SetRelationsRequest{Environment: with.Environment, Relations: part, Options: options})); err != nil {
			return 0, err
		}
	}
	for part := range slices.Chunk(d.goneObjects, batch) {
		if err := wrote(Ask(ctx, c.Directory.DeleteObjects, &api.DeleteObjectsRequest{Environment: with.Environment, Objects: part, Options: options})); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

// SyncEvery is SyncFile again and again until ctx ends. What fails is printed on notes, and tried again the next time.
func (c *Client) SyncEvery(ctx context.Context, w, notes io.Writer, path string, every time.Duration, with Sync) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := c.SyncFile(ctx, w, path, with); err != nil && ctx.Err() == nil {
			fmt.Fprintln(notes, time.Now().UTC().Format(time.RFC3339), strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
