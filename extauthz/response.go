package extauthz

import (
	"encoding/json"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/gate"
)

// response renders an Answer in the generated types. It is the reference that encode is tested against. A denial
// always has a status code other than OK: Envoy checks that first, and lets a denied_response with code OK through.
func response(a *gate.Answer) *authv3.CheckResponse {
	out := &authv3.CheckResponse{DynamicMetadata: dynamicMetadata(a)}
	if a.Allow {
		out.Status = &rpcstatus.Status{Code: int32(codes.OK)}
		out.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: allowed(a)}
		return out
	}
	out.Status = &rpcstatus.Status{Code: int32(codes.PermissionDenied), Message: a.Reason.String()}
	out.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(a.Status)},
		Headers: headerOptions(a.Set),
		Body:    validUTF8(a.Body),
	}}
	return out
}

func allowed(a *gate.Answer) *authv3.OkHttpResponse {
	ok := &authv3.OkHttpResponse{
		Headers:              headerOptions(a.Set),
		ResponseHeadersToAdd: headerOptions(a.Response),
	}
	for _, name := range a.Remove {
		ok.HeadersToRemove = append(ok.HeadersToRemove, validUTF8(name))
	}
	for _, q := range a.SetQuery {
		ok.QueryParametersToSet = append(ok.QueryParametersToSet, &corev3.QueryParameter{Key: validUTF8(q.Name), Value: validUTF8(q.Value)})
	}
	for _, name := range a.RemoveQuery {
		ok.QueryParametersToRemove = append(ok.QueryParametersToRemove, validUTF8(name))
	}
	return ok
}

// headerActions are Envoy's values for the gate's. Plain is Envoy's zero value: the field stays unset.
var headerActions = [...]corev3.HeaderValueOption_HeaderAppendAction{
	gate.AppendIfExistsOrAdd:    corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD,
	gate.AddIfAbsent:            corev3.HeaderValueOption_ADD_IF_ABSENT,
	gate.OverwriteIfExistsOrAdd: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	gate.OverwriteIfExists:      corev3.HeaderValueOption_OVERWRITE_IF_EXISTS,
}

func headerOptions(headers []gate.HeaderOption) []*corev3.HeaderValueOption {
	if len(headers) == 0 {
		return nil
	}
	out := make([]*corev3.HeaderValueOption, len(headers))
	for i, h := range headers {
		out[i] = &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: validUTF8(h.Name), Value: validUTF8(h.Value)},
			AppendAction: headerActions[h.Action]}
	}
	return out
}

// Metadata is the dynamic metadata of an Answer in Envoy's wire format, a google.protobuf.Struct.
func Metadata(a *gate.Answer) ([]byte, error) { return proto.Marshal(dynamicMetadata(a)) }

func dynamicMetadata(a *gate.Answer) *structpb.Struct {
	fields := make(map[string]*structpb.Value, len(a.Metadata)+1)
	for key, v := range a.Metadata {
		fields[validUTF8(key)] = value(v)
	}
	fields["decision_id"] = structpb.NewStringValue(a.DecisionID)
	return &structpb.Struct{Fields: fields}
}

// value converts plain JSON. Struct has only float64 numbers, so large integers lose digits, as in Envoy itself.
func value(v any) *structpb.Value {
	switch v := v.(type) {
	case nil:
		return structpb.NewNullValue()
	case bool:
		return structpb.NewBoolValue(v)
	case string:
		return structpb.NewStringValue(validUTF8(v))
	case json.Number:
		f, err := v.Float64()
		if err != nil { // out of range of float64
			return structpb.NewStringValue(v.String())
		}
		return structpb.NewNumberValue(f)
	case []any:
		list := &structpb.ListValue{Values: make([]*structpb.Value, len(v))}
		for i := range v {
			list.Values[i] = value(v[i])
		}
		return structpb.NewListValue(list)
	case map[string]any:
		fields := make(map[string]*structpb.Value, len(v))
		for key := range v {
			fields[validUTF8(key)] = value(v[key])
		}
		return structpb.NewStructValue(&structpb.Struct{Fields: fields})
	}
	return structpb.NewNullValue()
}

// validUTF8 replaces invalid UTF-8: protobuf refuses to marshal it, and that would be a gRPC error.
func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
