#include "postgres.h"
#include "worker.h"
static bool work(void){return false;}
static int interval(void){return 1000;}
const CouponWorkerKind coupon_room_worker = {.name = "coupon room worker", .work = work, .interval = interval};
