<!-- attribute_of_a_turn.pml:3:3: unknown attribute 'name' of <user>; expected none -->
<prompt schema="trip">
  <user name="me">Go on.</user>
</prompt>
