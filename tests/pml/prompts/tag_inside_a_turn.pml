<!-- tag_inside_a_turn.pml:3:9: <budget> in <user>; expected text alone in a turn -->
<prompt schema="trip">
  <user><budget/>Go on.</user>
</prompt>
