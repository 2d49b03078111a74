package topaz

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gatehouse/directory"
	"gatehouse/directory/journal"
	"gatehouse/topaz/pb/importer"
)

type importerService struct {
	importer.UnimplementedImporterServer
	*Service
}

// Bounds of a batch of an import.
const (
	maxBatch      = 1000
	maxBatchBytes = 1 << 20 // and a message more
)

// Import makes the changes of a stream, in batches of which each is made as one, without those in it that cannot be made: each of these is told to
// the client. The last answer counts what became of all of it, and comes when all of it is on disk and in force.
func (s *importerService) Import(stream importer.Importer_ImportServer) error {
	if !clientOf(stream.Context()).Write {
		return errMayNotWrite
	}
	b := &batch{object: &importer.ImportCounter{Type: "object"}, relation: &importer.ImportCounter{Type: "relation"}, send: stream.Send}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if err := b.flush(stream.Context(), s.Service); err != nil {
				return err
			}
			for _, c := range []*importer.ImportCounter{b.object, b.relation} {
				if err := stream.Send(&importer.ImportResponse{Msg: &importer.ImportResponse_Counter{Counter: c}}); err != nil {
					return err
				}
			}
			return stream.Send(&importer.ImportResponse{Object: b.object, Relation: b.relation})
		}
		if err != nil {
			return err
		}
		if err := b.add(in); err != nil {
			return err
		}
		if len(b.items) >= maxBatch || b.size >= maxBatchBytes {
			if err := b.flush(stream.Context(), s.Service); err != nil {
				return err
			}
		}
	}
}

// batch is the changes that are made next, and what became of those before.
type batch struct {
	items            []item
	size             int
	object, relation *importer.ImportCounter
	send             func(*importer.ImportResponse) error
}

// item is one message of the stream, as a change.
type item struct {
	in     *importer.ImportRequest
	change directory.Change
	alone  bool // it deletes an object that must not have relations
}

// add takes one message. An error is the stream's.
func (b *batch) add(in *importer.ImportRequest) error {
	b.counter(in).Recv++
	it, size, err := itemOf(in)
	if err != nil {
		return b.refuse(in, err)
	}
	b.items, b.size = append(b.items, it), b.size+size
	return nil
}

func (b *batch) counter(in *importer.ImportRequest) *importer.ImportCounter {
	if in.GetRelation() != nil {
		return b.relation
	}
	return b.object
}

// refuse tells the client of one message that came to nothing.
func (b *batch) refuse(in *importer.ImportRequest, err error) error {
	b.counter(in).Error++
	is := status.Convert(writeStatus(err))
	return b.send(&importer.ImportResponse{Msg: &importer.ImportResponse_Status{Status: &importer.ImportStatus{Code: uint32(is.Code()), Msg: is.Message(), Req: in}}})
}

func itemOf(in *importer.ImportRequest) (it item, size int, err error) {
	it.in = in
	unknown := status.Errorf(codes.InvalidArgument, "op_code: %v is none for this", in.OpCode)
	switch m := in.Msg.(type) {
	case *importer.ImportRequest_Object:
		o, err := objectOfMessage(m.Object)
		if err != nil {
			return it, 0, err
		}
		switch in.OpCode {
		case importer.Opcode_OPCODE_SET:
			it.change.SetObject = o
		case importer.Opcode_OPCODE_DELETE, importer.Opcode_OPCODE_DELETE_WITH_RELATIONS:
			it.change.DeleteObject, it.alone = &o.Ref, in.OpCode == importer.Opcode_OPCODE_DELETE
		default:
			return it, 0, unknown
		}
		return it, sizeOfObject(o), nil
	case *importer.ImportRequest_Relation:
		r, err := relationOfMessage(m.Relation)
		if err != nil {
			return it, 0, err
		}
		switch in.OpCode {
		case importer.Opcode_OPCODE_SET:
			it.change.SetRelation = r
		case importer.Opcode_OPCODE_DELETE:
			it.change.DeleteRelation = r
		default:
			return it, 0, unknown
		}
		return it, sizeOfRelation(r), nil
	}
	return it, 0, status.Error(codes.InvalidArgument, "neither an object nor a relation")
}

// flush makes the batch, and says what could not be made.
func (b *batch) flush(ctx context.Context, s *Service) error {
	if len(b.items) == 0 {
		return nil
	}
	var refused map[int]error
	_, err := s.write(ctx, b.size, func(d *directory.Snapshot) (journal.Edit, error) {
		var e journal.Edit
		e.Changes, refused = b.possible(d, s)
		return e, nil
	})
	if err != nil {
		return err
	}
	for i, it := range b.items {
		if err := refused[i]; err != nil {
			if err := b.refuse(it.in, err); err != nil {
				return err
			}
			continue
		}
		if c := b.counter(it.in); it.in.OpCode == importer.Opcode_OPCODE_SET {
			c.Set++
		} else {
			c.Delete++
		}
	}
	b.items, b.size = b.items[:0], 0
	return nil
}

// possible are the changes of the batch that can be made one after the other, and why others cannot, by their places.
func (b *batch) possible(d *directory.Snapshot, s *Service) (changes []directory.Change, refused map[int]error) {
	refused = map[int]error{}
	expiring := d.Stats().Expiring > 0 // what is imported does not expire
	var places []int                   // of the changes since d
	from := 0
	// settle applies what was collected since from, and goes on behind each change that cannot be made.
	settle := func() {
		for from < len(changes) {
			next, err := d.Apply(changes[from:])
			if err == nil {
				d, from = next, len(changes)
				return
			}
			var wrong *directory.ChangeError
			if !errors.As(err, &wrong) { // none that is known: nothing of it is made
				for _, place := range places[from:] {
					refused[place] = err
				}
				changes, places = changes[:from], places[:from]
				return
			}
			at := from + wrong.Index
			refused[places[at]] = err
			if next, err = d.Apply(changes[from:at]); err == nil {
				d, from = next, at
			}
			changes = append(changes[:at:at], changes[at+1:]...)
			places = append(places[:at:at], places[at+1:]...)
		}
	}
	for i, it := range b.items {
		switch {
		case it.alone: // what was set before it counts
			settle()
			if related(d, *it.change.DeleteObject) {
				refused[i] = status.Errorf(codes.InvalidArgument, "%s has relations: delete them first, or use OPCODE_DELETE_WITH_RELATIONS", it.change.DeleteObject)
				continue
			}
		case it.change.SetRelation != nil && expiring: // one that is there keeps the time at which it expires
			settle()
			if _, found := d.Relation(*it.change.SetRelation, s.with.Clock()); found {
				continue
			}
		}
		changes, places = append(changes, it.change), append(places, i)
	}
	settle()
	return changes, refused
}
