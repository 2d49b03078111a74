# GET /openapi.json   (openapi)
package shop.GET["openapi.json"]

import data.roles

default allowed := false

allowed if roles.has("developer")
