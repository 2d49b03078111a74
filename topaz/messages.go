package topaz

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/directory"
	"gatehouse/topaz/pb/common"
)

func refOf(typ, id string) directory.Ref { return directory.Ref{Type: typ, ID: id} }

// maxAnswer bounds the objects of an answer, in bytes of their properties. A message may have 4 MiB.
const maxAnswer = 2 << 20

// answerSize adds up the objects of an answer.
type answerSize int

func (n *answerSize) add(o directory.Object) error {
	if *n += answerSize(len(o.Properties)); *n > maxAnswer {
		return status.Errorf(codes.ResourceExhausted, "the objects have properties of more than %d bytes: ask for fewer of them", maxAnswer)
	}
	return nil
}

// objectMessage is an object as a message. Times of changes are not kept.
func objectMessage(o directory.Object) (*common.Object, error) {
	out := &common.Object{Type: o.Type, Id: o.ID, DisplayName: o.DisplayName, Etag: objectEtag(o)}
	if len(o.Properties) > 0 {
		out.Properties = &structpb.Struct{}
		if err := protojson.Unmarshal(o.Properties, out.Properties); err != nil {
			return nil, status.Errorf(codes.Internal, "properties of %s: %v", o.Ref, err)
		}
	}
	return out, nil
}

func relationMessage(r directory.Relation) *common.Relation {
	return &common.Relation{ObjectType: r.Object.Type, ObjectId: r.Object.ID, Relation: r.Relation, SubjectType: r.Subject.Type, SubjectId: r.Subject.ID,
		SubjectRelation: r.SubjectRelation, Etag: etag(r.String())}
}

func objectEtag(o directory.Object) string {
	return etag(o.Type, o.ID, o.DisplayName, string(o.Properties))
}

// etag is a hash of content: the same content has the same one.
func etag(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// asStatus is the error of a question to the directory. None of them is "no".
func asStatus(err error) error {
	switch {
	case errors.Is(err, directory.ErrLimit):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, directory.ErrUnknownType), errors.Is(err, directory.ErrUnknownRelation), errors.Is(err, directory.ErrGraphQuery):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// page is a part of a listing of one snapshot.
type page struct {
	from directory.Position
	size int
	mark string // of the snapshot and of what is listed: a token is good for these alone
}

// pageOf reads a request's page. what is the rest of the request.
func pageOf(s *directory.Snapshot, in *common.PaginationRequest, what ...string) (page, error) {
	p := page{size: int(in.GetSize()), mark: s.Digest()[:16] + "." + etag(what...)[:16]}
	if p.size <= 0 || p.size > maxPage {
		p.size = maxPage
	}
	token := in.GetToken()
	if token == "" {
		return p, nil
	}
	at, mark, _ := strings.Cut(token, "-")
	digest, request, _ := strings.Cut(mark, ".")
	from, ok := directory.ParsePosition(at)
	switch wantDigest, wantRequest, _ := strings.Cut(p.mark, "."); {
	case !ok || len(digest) != len(wantDigest):
		return p, status.Errorf(codes.InvalidArgument, "page.token: %.100q was not given by this server", token)
	case request != wantRequest:
		return p, status.Error(codes.InvalidArgument, "page.token: it was given for another request")
	case digest != wantDigest:
		return p, status.Error(codes.Aborted, "page.token: the directory has changed: begin again")
	}
	p.from = from
	return p, nil
}

// collect gives the page's part of a listing that begins there, and the answer's page.
func collect[T any](p page, all iter.Seq2[directory.Position, T]) (some []T, answer *common.PaginationResponse) {
	answer = &common.PaginationResponse{}
	for at, x := range all {
		if len(some) == p.size {
			answer.NextToken = at.String() + "-" + p.mark
			return some, answer
		}
		some = append(some, x)
	}
	return some, answer
}
