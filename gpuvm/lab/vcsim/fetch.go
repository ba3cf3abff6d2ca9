package main

import (
	"reflect"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// fetchBody is the answer to Fetch, which pyVmomi calls for every property that is read by name.
type fetchBody struct {
	Res    *FetchResponse `xml:"FetchResponse,omitempty"`
	Fault_ *soap.Fault
}

// FetchResponse is named as the element in the answer; an unset property has no returnval (R14: the
// simulator answers with something else, which no client can read).
type FetchResponse struct {
	Returnval types.AnyType `xml:"returnval,omitempty,typeattr"`
}

func (b *fetchBody) Fault() *soap.Fault { return b.Fault_ }

// Fetch reads one property of one object. The request's type is internal to the simulator.
func (c *collectorMethods) Fetch(ctx *simulator.Context, request any) soap.HasFault {
	fields := reflect.ValueOf(request).Elem()
	self := fields.FieldByName("This").Interface().(ref)
	property := fields.FieldByName("Prop").String()
	reader := &simulator.PropertyCollector{}
	answer := reader.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{SpecSet: []types.PropertyFilterSpec{{
		PropSet:   []types.PropertySpec{{Type: self.Type, PathSet: []string{property}}},
		ObjectSet: []types.ObjectSpec{{Obj: self}},
	}}})
	if answer.Fault() != nil {
		return &fetchBody{Fault_: answer.Fault()}
	}
	result := &FetchResponse{}
	returned := reflect.ValueOf(answer).Elem().FieldByName("Res").Interface().(*types.RetrievePropertiesExResponse)
	for _, object := range returned.Returnval.Objects {
		for _, p := range object.PropSet {
			result.Returnval = p.Val
		}
		for _, missing := range object.MissingSet {
			if f, ok := missing.Fault.Fault.(fault); ok {
				return &fetchBody{Fault_: simulator.Fault(describe(f), f)}
			}
		}
	}
	return &fetchBody{Res: result}
}
