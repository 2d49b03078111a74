package topaz

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/directory"
	"gatehouse/topaz/pb/exporter"
)

type exporterService struct {
	exporter.UnimplementedExporterServer
	*Service
}

func (s *exporterService) Export(in *exporter.ExportRequest, stream exporter.Exporter_ExportServer) error {
	if in.StartFrom != nil && in.StartFrom.AsTime().Unix() > 0 {
		return status.Error(codes.InvalidArgument, "start_from: times of changes are not kept: leave it out, and all is exported")
	}
	d, err := s.directory()
	if err != nil {
		return err
	}
	if in.Options&uint32(exporter.Option_OPTION_STATS) != 0 {
		return s.stats(d, stream)
	}
	if in.Options&uint32(exporter.Option_OPTION_DATA_OBJECTS) != 0 {
		for o := range d.Objects("") {
			message, err := objectMessage(o)
			if err != nil {
				return err
			}
			if err := stream.Send(&exporter.ExportResponse{Msg: &exporter.ExportResponse_Object{Object: message}}); err != nil {
				return err
			}
		}
	}
	if in.Options&uint32(exporter.Option_OPTION_DATA_RELATIONS) == 0 {
		return nil
	}
	for r := range d.Relations(directory.RelationFilter{}, s.with.Clock()) {
		if err := stream.Send(&exporter.ExportResponse{Msg: &exporter.ExportResponse_Relation{Relation: relationMessage(r)}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *exporterService) stats(d *directory.Snapshot, stream exporter.Exporter_ExportServer) error {
	stats := d.Stats()
	return stream.Send(&exporter.ExportResponse{Msg: &exporter.ExportResponse_Stats{Stats: &structpb.Struct{Fields: map[string]*structpb.Value{
		"objects": structpb.NewNumberValue(float64(stats.Objects)), "relations": structpb.NewNumberValue(float64(stats.Relations))}}}})
}
