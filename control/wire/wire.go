// Package wire is the form in which changes of a directory are stored by control and sent to edges: encoded api.Ops.
// Control and edges apply them by the same function, so that both come to the same directory.
//
// It may import directory and control/api.
package wire

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"gatehouse/control/api"
	"gatehouse/directory"
)

// Bounds of one message, for both ends.
const (
	MaxOps      = 4000    // operations of one revision
	MaxMessage  = 8 << 20 // bytes of one message of the stream
	ChunkSize   = 256 << 10
	MaxSnapshot = 8 << 30 // bytes of a whole directory
)

// The form in which bundles are fetched.
const (
	BundleType     = "application/vnd.openpolicyagent.bundles" // OPA's for a server that holds requests
	BundlePath     = "/bundles/own"                            // of the edge that asks
	SignerPath     = "/bundles/signer.pem"                     // the certificate of the key that they are signed with
	RevisionHeader = "Gatehouse-Revision"                      // the digest of the bundle's files
)

// ErrForm is an operation of no form that this release knows.
var ErrForm = errors.New("an operation has no form that this release knows: is control newer than this edge?")

// Encode encodes changes.
func Encode(changes []directory.Change) ([]byte, error) {
	out := &api.Ops{Ops: make([]*api.Op, len(changes))}
	for i, c := range changes {
		out.Ops[i] = op(c)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(out)
}

// EncodeManifest encodes a new manifest.
func EncodeManifest(m *directory.Manifest, force bool) ([]byte, error) {
	return proto.Marshal(&api.Ops{Ops: []*api.Op{{Op: &api.Op_Manifest{Manifest: &api.ManifestData{Text: m.Text(), Force: force}}}}})
}

func op(c directory.Change) *api.Op {
	switch {
	case c.SetObject != nil:
		o := c.SetObject
		return &api.Op{Op: &api.Op_SetObject{SetObject: &api.ObjectData{Type: o.Type, Id: o.ID, DisplayName: o.DisplayName, Properties: o.Properties}}}
	case c.DeleteObject != nil:
		return &api.Op{Op: &api.Op_DeleteObject{DeleteObject: &api.Name{Type: c.DeleteObject.Type, Id: c.DeleteObject.ID}}}
	case c.SetRelation != nil:
		return &api.Op{Op: &api.Op_SetRelation{SetRelation: relation(c.SetRelation)}}
	case c.DeleteRelation != nil:
		return &api.Op{Op: &api.Op_DeleteRelation{DeleteRelation: relation(c.DeleteRelation)}}
	}
	return &api.Op{}
}

func relation(r *directory.Relation) *api.RelationData {
	out := &api.RelationData{ObjectType: r.Object.Type, ObjectId: r.Object.ID, Relation: r.Relation, SubjectType: r.Subject.Type,
		SubjectId: r.Subject.ID, SubjectRelation: r.SubjectRelation}
	if !r.Expires.IsZero() {
		out.ExpiresAt = r.Expires.Unix()
	}
	return out
}

func relationOf(r *api.RelationData) *directory.Relation {
	out := &directory.Relation{Object: directory.Ref{Type: r.GetObjectType(), ID: r.GetObjectId()}, Relation: r.GetRelation(),
		Subject: directory.Ref{Type: r.GetSubjectType(), ID: r.GetSubjectId()}, SubjectRelation: r.GetSubjectRelation()}
	if at := r.GetExpiresAt(); at != 0 {
		out.Expires = time.Unix(at, 0).UTC()
	}
	return out
}

// change is the change of an operation that is no manifest.
func change(o *api.Op) (c directory.Change, err error) {
	switch x := o.GetOp().(type) {
	case *api.Op_SetObject:
		s := x.SetObject
		c.SetObject = &directory.Object{Ref: directory.Ref{Type: s.GetType(), ID: s.GetId()}, DisplayName: s.GetDisplayName(), Properties: s.GetProperties()}
		if len(c.SetObject.Properties) == 0 {
			c.SetObject.Properties = nil
		}
	case *api.Op_DeleteObject:
		c.DeleteObject = &directory.Ref{Type: x.DeleteObject.GetType(), ID: x.DeleteObject.GetId()}
	case *api.Op_SetRelation:
		c.SetRelation = relationOf(x.SetRelation)
	case *api.Op_DeleteRelation:
		c.DeleteRelation = relationOf(x.DeleteRelation)
	default:
		return c, ErrForm
	}
	return c, nil
}

// Apply applies encoded Ops in order, all of them or none.
func Apply(s *directory.Snapshot, encoded [][]byte) (*directory.Snapshot, error) {
	var changes []directory.Change
	flush := func() (err error) {
		if len(changes) > 0 {
			s, err = s.Apply(changes)
			changes = changes[:0]
		}
		return err
	}
	for _, b := range encoded {
		ops, err := decode(b)
		if err != nil {
			return nil, err
		}
		for _, o := range ops {
			m, is := o.GetOp().(*api.Op_Manifest)
			if !is {
				c, err := change(o)
				if err != nil {
					return nil, err
				}
				changes = append(changes, c)
				continue
			}
			if err := flush(); err != nil {
				return nil, err
			}
			manifest, err := directory.ParseManifest("the manifest from control", m.Manifest.GetText())
			if err != nil {
				return nil, err
			}
			if s, err = s.SetManifest(manifest, m.Manifest.GetForce()); err != nil {
				return nil, err
			}
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return s, nil
}

func decode(b []byte) ([]*api.Op, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("a revision of %d bytes: %d are possible", len(b), MaxMessage)
	}
	var ops api.Ops
	if err := proto.Unmarshal(b, &ops); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	if len(ops.GetOps()) > MaxOps {
		return nil, fmt.Errorf("a revision of %d operations: %d are possible", len(ops.GetOps()), MaxOps)
	}
	return ops.GetOps(), nil
}

// Describe is encoded Ops as text, the first most of them.
func Describe(b []byte, most int) (list []string, total int, err error) {
	ops, err := decode(b)
	if err != nil {
		return nil, 0, err
	}
	for _, o := range ops[:min(most, len(ops))] {
		if m, is := o.GetOp().(*api.Op_Manifest); is {
			text := "set the manifest"
			if m.Manifest.GetForce() {
				text += ", delete what it does not allow"
			}
			list = append(list, text)
			continue
		}
		c, err := change(o)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, c.String())
	}
	return list, len(ops), nil
}
