package topaz

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/directory"
	"gatehouse/topaz/pb/common"
)

func refOf(typ, id string) directory.Ref { return directory.Ref{Type: typ, ID: id} }

// objectMessage is an object as a message. Times of changes are not kept.
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

func objectMessage(o directory.Object) (*common.Object, error) {
	out := &common.Object{Type: o.Type, Id: o.ID, DisplayName: o.DisplayName, Etag: etag(o.Type, o.ID, o.DisplayName, string(o.Properties))}
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

// page is a part of a sequence whose order is that of one snapshot.
type page struct {
	digest      string
	first, size int
}

// pageOf reads a request's page. A token is good for the snapshot that it was made of.
func pageOf(s *directory.Snapshot, in *common.PaginationRequest) (page, error) {
	p := page{digest: s.Digest(), size: int(in.GetSize())}
	if p.size <= 0 || p.size > maxPage {
		p.size = maxPage
	}
	token := in.GetToken()
	if token == "" {
		return p, nil
	}
	first, digest, found := strings.Cut(token, "-")
	n, err := strconv.ParseUint(first, 10, 31)
	switch {
	case !found || err != nil:
		return p, status.Errorf(codes.InvalidArgument, "page.token: %q was not given by this server", token)
	case digest != p.digest:
		return p, status.Error(codes.Aborted, "page.token: the directory has changed: begin again")
	}
	p.first = int(n)
	return p, nil
}

// take gives the page's part of a sequence, and the answer's page.
func take[T any](p page, all iter.Seq[T]) (some []T, answer *common.PaginationResponse) {
	answer = &common.PaginationResponse{}
	n := 0
	for x := range all {
		if n++; n <= p.first {
			continue
		}
		if len(some) == p.size {
			answer.NextToken = strconv.Itoa(n-1) + "-" + p.digest
			return some, answer
		}
		some = append(some, x)
	}
	return some, answer
}
