"""Prints dashboard.json: a sale, as Grafana shows it.

Made with grafana-foundation-sdk (PyPI).  In the repository:
test/bin/grafana_sdk fetch && test/bin/grafana_sdk dashboard > examples/monitoring/dashboard.json
"""

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

SOURCE = model.DataSourceRef(type_val="prometheus", uid="$source")
HERE = 'instance=~"$instance"'
CAMPAIGN = HERE + ',campaign=~"$campaign|other"'
RATE = "[$__rate_interval]"
# calls that wait on purpose, and those of the operator
DIRECT = 'way!~"commit|decision|http_waited|http_stream|http_operator"'


def target(letter, expr, legend):
    return prometheus.Dataquery().ref_id(letter).expr(expr).legend_format(legend)


def levels(warning, critical):
    steps = [(None, "green"), (warning, "orange"), (critical, "red")]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(
        [model.Threshold(value=value, color=color) for value, color in steps])


def lines(title, about, unit, *queries, stacked=False, marks=None):
    """A panel of curves; queries are (PromQL, legend)."""
    panel = (
        timeseries.Panel().title(title).description(about).datasource(SOURCE).unit(unit).min(0)
        .height(8).span(8).fill_opacity(10).no_value("none")
        .legend(common.VizLegendOptions().display_mode(common_model.LegendDisplayMode.LIST)
                .placement(common_model.LegendPlacement.BOTTOM).show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
                 .sort(common_model.SortOrder.DESCENDING)))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    if marks:
        panel = panel.thresholds(levels(*marks)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_model.GraphTresholdsStyleMode.DASHED))
    for letter, query in zip("ABCDEF", queries):
        panel = panel.with_target(target(letter, *query))
    return panel


def number(title, about, unit, query, marks=None):
    """A panel of one number."""
    panel = (
        stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit)
        .height(4).span(3)
        .graph_mode(common_model.BigValueGraphMode.AREA)
        .color_mode(common_model.BigValueColorMode.BACKGROUND if marks else common_model.BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .with_target(target("A", query, "")))
    return panel.thresholds(levels(*marks)) if marks else panel


def variables(board):
    choose = "label_values(%s)"
    return (
        board
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(dashboard.QueryVariable("instance").label("Server").datasource(SOURCE)
                       .query(choose % "coupon_up, instance").refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
                       .multi(True).include_all(True).all_value(".*"))
        .with_variable(dashboard.QueryVariable("campaign").label("Campaign").datasource(SOURCE)
                       .query(choose % ('coupon_campaign_info{%s}, campaign' % HERE))
                       .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
                       .multi(True).include_all(True).all_value(".*")))


def overview(board):
    panels = [
        number("Sells", "1: this server sells; 0: it is a standby.", "none", f"min(coupon_up{{{HERE}}})"),
        number("Alerts", "Alerts on coupon that fire.", "none",
               'count(ALERTS{alertstate="firing",alertname=~"Coupon.*"}) or vector(0)', marks=(1, 3)),
        number("Issued", "Units issued, of the campaigns that are chosen.", "short",
               f"sum(coupon_campaign_issued{{{HERE},campaign=~\"$campaign\"}})"),
        number("Remaining", "Units that are free.", "short",
               f"sum(coupon_campaign_remaining{{{HERE},campaign=~\"$campaign\"}})"),
        number("Issues a second", "", "ops",
               f'sum(rate(coupon_campaign_answers_total{{{CAMPAIGN},outcome="issued"}}{RATE}))'),
        number("Average latency", "Of calls that are answered at once.", "s",
               f"sum(rate(coupon_call_duration_seconds_sum{{{HERE},{DIRECT}}}{RATE})) / "
               f"sum(rate(coupon_call_duration_seconds_count{{{HERE},{DIRECT}}}{RATE}))", marks=(0.1, 0.5)),
        number("Errors", "The share of calls that end in an error.", "percentunit",
               f'sum(rate(coupon_calls_total{{{HERE},outcome=~"error|500|502|504"}}{RATE})) / '
               f"sum(rate(coupon_calls_total{{{HERE}}}{RATE}))", marks=(0.01, 0.05)),
        number("Events behind", "Committed, and not published.", "short",
               f"sum(coupon_outbox_unpublished{{{HERE}}})", marks=(1000, 10000)),
    ]
    for panel in panels:
        board = board.with_panel(panel)
    return board


# what is not there, 0 or NaN, is no line
ROWS = {
    "Sale": [
        lines("Answers", "What users are told, by any way in.", "ops",
              (f"sum by (outcome) (rate(coupon_campaign_answers_total{{{CAMPAIGN}}}{RATE})) > 0", "{{outcome}}"), stacked=True),
        lines("Issues by campaign", "", "ops",
              (f'sum by (campaign) (rate(coupon_campaign_answers_total{{{CAMPAIGN},outcome="issued"}}{RATE}))', "{{campaign}}")),
        lines("Stock", "Units that are free, held, or in transactions that have not ended.", "short",
              (f'sum by (campaign) (coupon_campaign_remaining{{{HERE},campaign=~"$campaign"}})', "{{campaign}} free"),
              (f'sum by (campaign) (coupon_campaign_held{{{HERE},campaign=~"$campaign"}})', "{{campaign}} held"),
              (f'sum by (campaign) (coupon_campaign_in_flight{{{HERE},campaign=~"$campaign"}})', "{{campaign}} in flight")),
    ],
    "Calls": [
        lines("Calls", "By way in; HTTP's are counted as functions, too.", "ops",
              (f"sum by (way) (rate(coupon_calls_total{{{HERE}}}{RATE})) > 0", "{{way}}")),
        lines("Average latency", "Direct calls up to the end of their commit, the others as the caller waits.", "s",
              (f"sum by (way) (rate(coupon_call_duration_seconds_sum{{{HERE},{DIRECT}}}{RATE})) / "
               f"(sum by (way) (rate(coupon_call_duration_seconds_count{{{HERE},{DIRECT}}}{RATE})) > 0)", "{{way}}"), marks=(0.1, 0.5)),
        lines("99 of 100 take no longer than", "", "s",
              (f"histogram_quantile(0.99, sum by (way, le) (rate(coupon_call_duration_seconds_bucket{{{HERE}}}{RATE}))) >= 0", "{{way}}")),
        lines("Errors", "By the class of their SQLSTATE.", "ops",
              (f"sum by (way, class) (rate(coupon_call_errors_total{{{HERE}}}{RATE})) > 0", "{{way}} {{class}}")),
        lines("Commit", "Half of the commits, and 99 of 100, take no longer: the disk, or a standby.", "s",
              (f'histogram_quantile(0.5, sum by (le) (rate(coupon_call_duration_seconds_bucket{{{HERE},way="commit"}}{RATE}))) >= 0', "half"),
              (f'histogram_quantile(0.99, sum by (le) (rate(coupon_call_duration_seconds_bucket{{{HERE},way="commit"}}{RATE}))) >= 0', "99 of 100")),
        lines("Calls of a batch", "How many callers share a transaction.", "short",
              (f"sum by (way) (rate(coupon_batch_items_total{{{HERE}}}{RATE})) / (sum by (way) (rate(coupon_batches_total{{{HERE}}}{RATE})) > 0)", "{{way}}")),
    ],
    "Queues and rooms": [
        lines("Requests that wait", "", "short",
              (f"sum by (campaign) (coupon_requests_waiting{{{CAMPAIGN}}})", "{{campaign}}")),
        lines("Requests decided", "", "ops",
              (f"sum by (campaign) (rate(coupon_requests_decided_total{{{CAMPAIGN}}}{RATE}))", "{{campaign}}")),
        lines("Oldest request", "", "s",
              (f"max by (campaign) (coupon_requests_oldest_seconds{{{CAMPAIGN}}})", "{{campaign}}")),
        lines("Visitors", "", "short",
              (f"sum by (room) (coupon_room_waiting{{{HERE}}})", "{{room}} wait"),
              (f"sum by (room) (coupon_room_admitted{{{HERE}}})", "{{room}} admitted")),
        lines("Admissions", "", "ops",
              (f"sum by (room) (rate(coupon_room_served_total{{{HERE}}}{RATE}))", "{{room}}")),
    ],
    "Events": [
        lines("Events behind", "Committed, and not published.", "short",
              (f"sum by (instance) (coupon_outbox_unpublished{{{HERE}}})", "{{instance}}"), marks=(1000, 10000)),
        lines("Published", "", "ops",
              (f"sum by (instance) (rate(coupon_publisher_published_total{{{HERE}}}{RATE}))", "published"),
              (f"sum by (instance) (rate(coupon_publisher_retried_total{{{HERE}}}{RATE}))", "sent again")),
        lines("Oldest event", "", "s", (f"max by (instance) (coupon_outbox_oldest_seconds{{{HERE}}})", "{{instance}}")),
        lines("Dead letters, and events put aside", "", "short",
              (f"sum by (instance) (coupon_dead_letters{{{HERE}}})", "dead letters"),
              (f"sum by (instance) (coupon_outbox_parked{{{HERE}}})", "topic refused")),
    ],
    "Server": [
        lines("Workers that are missing", "By kind.", "short",
              (f"sum by (kind) (coupon_workers_wanted{{{HERE}}} - coupon_workers{{{HERE}}})", "{{kind}}")),
        lines("Errors of workers", "Cycles that ended by an error.", "ops",
              (f"sum by (kind) (rate(coupon_worker_errors_total{{{HERE}}}{RATE}))", "{{kind}}")),
        lines("Connections", "The share that is taken.", "percentunit",
              (f"max by (instance) (coupon_sessions{{{HERE}}} / coupon_sessions_limit{{{HERE}}})", "SQL"),
              (f"max by (instance) (coupon_http_connections{{{HERE}}} / coupon_http_connections_limit{{{HERE}}})", "HTTP"), marks=(0.7, 0.9)),
        lines("HTTP", "Calls that wait for their answer, open event streams, calls refused a second.", "short",
              (f"sum by (instance) (coupon_http_waiting{{{HERE}}})", "waiting"),
              (f"sum by (instance) (coupon_http_streams{{{HERE}}})", "streams"),
              (f"sum by (reason) (rate(coupon_http_refused_total{{{HERE}}}{RATE}))", "refused: {{reason}}")),
        lines("Memory", "The share that stock maps, and campaigns, take.", "percentunit",
              (f"max by (instance) (coupon_memory_map_bytes{{{HERE}}} / coupon_memory_map_limit_bytes{{{HERE}}})", "maps"),
              (f"max by (instance) (coupon_memory_campaigns{{{HERE}}} / coupon_memory_campaigns_limit{{{HERE}}})", "campaigns")),
        lines("Stock maps", "Built, evicted; false hints are units that the map thought free.", "ops",
              (f"sum by (instance) (rate(coupon_stock_map_builds_total{{{HERE}}}{RATE}))", "built"),
              (f"sum by (instance) (rate(coupon_memory_map_evictions_total{{{HERE}}}{RATE}))", "evicted"),
              (f"sum by (instance) (rate(coupon_stock_false_hints_total{{{HERE}}}{RATE}))", "false hints"),
              (f"sum by (instance) (rate(coupon_stock_waits_total{{{HERE}}}{RATE}))", "waits for units in flight")),
    ],
}


def build():
    board = variables(
        dashboard.Dashboard("coupon").uid("coupon").tags(["coupon"])
        .description("A sale by coupon: what is sold, how fast, what waits, what is wrong.")
        .refresh("5s").time("now-15m", "now").timezone("browser").editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR))
    board = overview(board)
    for title, panels in ROWS.items():
        board = board.with_row(dashboard.Row(title))
        for panel in panels:
            board = board.with_panel(panel)
    built = board.build()
    for number_of, panel in enumerate(built.panels, 1):
        panel.id_val = number_of
    return built


print(JSONEncoder(sort_keys=True, indent=2).encode(build()))
