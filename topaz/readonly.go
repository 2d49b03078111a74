package topaz

import (
	"context"

	"gatehouse/topaz/pb/importer"
	"gatehouse/topaz/pb/writer"
)

// writerService refuses every change: the directory comes from files.
type writerService struct {
	writer.UnimplementedWriterServer
}

func (*writerService) SetObject(context.Context, *writer.SetObjectRequest) (*writer.SetObjectResponse, error) {
	return nil, errReadOnly
}

func (*writerService) DeleteObject(context.Context, *writer.DeleteObjectRequest) (*writer.DeleteObjectResponse, error) {
	return nil, errReadOnly
}

func (*writerService) SetRelation(context.Context, *writer.SetRelationRequest) (*writer.SetRelationResponse, error) {
	return nil, errReadOnly
}

func (*writerService) DeleteRelation(context.Context, *writer.DeleteRelationRequest) (*writer.DeleteRelationResponse, error) {
	return nil, errReadOnly
}

// importerService likewise.
type importerService struct {
	importer.UnimplementedImporterServer
}

func (*importerService) Import(importer.Importer_ImportServer) error { return errReadOnly }
