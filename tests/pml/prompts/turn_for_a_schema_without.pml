<!-- turn_for_a_schema_without.pml:3:3: <user>, but schema 'trip' has no turns; expected text alone -->
<prompt schema="trip">
  <user>Go on.</user>
</prompt>
