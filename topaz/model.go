package topaz

import (
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"gatehouse/directory"
	"gatehouse/directory/journal"
	"gatehouse/topaz/pb/model"
)

type modelService struct {
	model.UnimplementedModelServer
	*Service
}

const (
	// manifestChunk is how much of a manifest one message carries.
	manifestChunk = 64 << 10
	maxManifest   = 1 << 20
	// forceHeader lets a manifest drop what it does not allow.
	forceHeader = "gatehouse-force"
)

func manifestEtag(d *directory.Snapshot) string { return etag(string(d.Manifest().Text())) }

// GetManifest sends the manifest. A client that has it already, by if-none-match, gets its etag alone.
func (s *modelService) GetManifest(_ *model.GetManifestRequest, stream model.Model_GetManifestServer) error {
	d, err := s.directory()
	if err != nil {
		return err
	}
	text, tag := d.Manifest().Text(), manifestEtag(d)
	err = stream.Send(&model.GetManifestResponse{Msg: &model.GetManifestResponse_Metadata{Metadata: &model.Metadata{Etag: tag}}})
	if in, _ := metadata.FromIncomingContext(stream.Context()); slices.Contains(in.Get("if-none-match"), tag) {
		return err
	}
	for err == nil && len(text) > 0 {
		n := min(len(text), manifestChunk)
		err = stream.Send(&model.GetManifestResponse{Msg: &model.GetManifestResponse_Body{Body: &model.Body{Data: text[:n]}}})
		text = text[n:]
	}
	return err
}

// SetManifest puts another manifest in the place of the one that is there. One that does not allow what the directory holds is refused, or with
// the header gatehouse-force drops that.
func (s *modelService) SetManifest(stream model.Model_SetManifestServer) error {
	if !clientOf(stream.Context()).Write {
		return errMayNotWrite
	}
	var text []byte
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if text = append(text, in.GetBody().GetData()...); len(text) > maxManifest {
			return status.Errorf(codes.InvalidArgument, "the manifest has more than %d bytes", maxManifest)
		}
	}
	m, err := directory.ParseManifest("manifest", text)
	if err != nil {
		return writeStatus(err)
	}
	if err := s.setManifest(stream.Context(), m); err != nil {
		return err
	}
	return stream.SendAndClose(&model.SetManifestResponse{Result: &emptypb.Empty{}})
}

// DeleteManifest puts the manifest in force that is there where none is given.
func (s *modelService) DeleteManifest(ctx context.Context, _ *model.DeleteManifestRequest) (*model.DeleteManifestResponse, error) {
	if err := s.setManifest(ctx, directory.DefaultManifest()); err != nil {
		return nil, err
	}
	return &model.DeleteManifestResponse{Result: &emptypb.Empty{}}, nil
}

func (s *modelService) setManifest(ctx context.Context, m *directory.Manifest) error {
	in, _ := metadata.FromIncomingContext(ctx)
	force, header := slices.Equal(in.Get(forceHeader), []string{"true"}), ifMatch(ctx)
	_, err := s.write(ctx, len(m.Text()), func(d *directory.Snapshot) (journal.Edit, error) {
		if header != "" && header != manifestEtag(d) {
			return journal.Edit{}, errStale("the manifest")
		}
		return journal.Edit{Manifest: m, Force: force}, nil
	})
	return err
}
