//! Promise: whatever process of a cluster dies, stops or is stopped, one or several, nothing is lost silently: every
//! client is back, presence and routes are right, and what could not be delivered was reported as such.
#![cfg(feature = "cluster")]

#[path = "cluster_faults/balance.rs"]
mod balance;
#[path = "cluster_faults/one.rs"]
mod one;
#[path = "cluster_faults/seed.rs"]
mod seed;
#[path = "cluster_faults/several.rs"]
mod several;

use ringcast_tests::scenarios;

scenarios! {
    seed_1_a_node_is_stopped_by_ctrl_c = seed::a_node_goes_by_ctrl_c;
    seed_1_a_node_dies = seed::a_node_dies;
    seed_2_load_is_balanced = seed::load_is_balanced;
    seed_3_a_room_of_100_over_3_nodes = seed::a_room_of_100_over_3_nodes;
    a_controller_dies_is_held_is_stopped = one::controller;
    a_push_manager_dies_is_held_is_stopped = one::push_manager;
    a_node_dies_is_held_is_stopped = one::node;
    one_of_each_dies_is_held_is_stopped = several::one_of_each;
    two_nodes_die_at_once = several::two_nodes;
    all_controllers_die_and_a_node = several::all_controllers_and_a_node;
    everything_is_restarted_in_turn = several::rolling_restart;
    a_storm_of_clients_is_back_in_15_s = several::storm;
    #[ignore = "nightly: a held process takes its time"]
    a_controller_is_held_for_long = one::controller_for_long;
    #[ignore = "nightly: a held process takes its time"]
    a_push_manager_is_held_for_long = one::push_manager_for_long;
    #[ignore = "nightly: a held process takes its time"]
    a_node_is_held_for_long = one::node_for_long;
    #[ignore = "nightly: a held process takes its time"]
    one_of_each_is_held_for_long = several::one_of_each_for_long;
    #[ignore = "nightly: many clients that come one by one"]
    uneven_nodes_even_out_under_churn = balance::uneven_nodes;
    #[ignore = "nightly: a variant of those above"]
    two_controllers_die_at_once = several::two_controllers;
    #[ignore = "nightly: a variant of those above"]
    all_push_managers_die_at_once = several::all_push_managers;
}
